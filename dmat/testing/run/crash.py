"""Report a dead worker process: the case that it was trying becomes a counterexample like any other."""

from __future__ import annotations

from pathlib import Path

from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.case_file import case_of, encoded
from dmat.testing.counterexample.folder import case_file, folder_name, next_steps, write
from dmat.testing.explain.message import building
from dmat.testing.kernel.select import implementation_named
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.journal import LADDER, NO_NUMBER, SLOW, JournalLine, note_outcome
from dmat.testing.run.search import ladder
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Example, Failure, Finding, LawBroken

DEADLY = "not made smaller: every try costs a process"
WHAT = {"died": "the process died", "did not end": "no result in {limit:.0f} s"}


def crash_record(line: JournalLine, journals: Path, folder: Path | None) -> Record:
    """Return the record of the law that a dead worker was trying. Keep its case in `folder`, unless None."""
    record = Record(line.law, line.implementation, line.dtype, line.device, "failed", part=line.part)
    line.ended = line.outcome
    record.examples, record.ended = line.examples, line.outcome
    if line.ended == "broken":  # the worker found a failure, then left because its GPU had failed
        record.reason, record.folder = line.message, line.folder or None
    else:
        note_outcome(journals, line, line.ended)
        record.reason = f"{line.law}: {_what(line)} while it called {_where(line)}"
        try:
            _note_case(line, record, folder)
        except Exception as error:  # the death is reported even if the case cannot be kept
            record.reason += f"; its case could not be kept: {type(error).__name__}: {error}"
    return record


def _note_case(line: JournalLine, record: Record, folder: Path | None) -> None:
    """Put the case that the worker was trying into the record, and write its counterexample folder."""
    implementation, outcome, what = implementation_named(line.implementation), line.outcome, _what(line)
    law = law_named(line.law, implementation.kind)
    subject = subject_of(implementation, line.dtype, line.device)
    case = _case_of(line, law, subject)
    if case is None:
        return
    record.case, record.recipe = shown(case), encoded(case)
    note = DEADLY if outcome == "died" else SLOW
    finding = Finding("call", (), what, "a result", note=note, what="died")
    failure = Failure(case, LawBroken(finding), ended=outcome)
    file = case_file(law, subject, failure)
    home = None if folder is None else folder / folder_name(file)
    record.reason = message(line, law.statement, failure, [] if home is None else next_steps(home, file))
    if home is not None:
        write(home, law, subject, failure, file, [Example(case, finding)], record.reason, Session())
        record.folder = str(home)


def _case_of(line: JournalLine, law: Law, subject: Subject) -> Case | None:
    """Return the case that the process was trying, None if it had begun none."""
    if line.case is not None:
        return case_of(line.case, None)
    if line.number == NO_NUMBER:
        return None
    if line.block == LADDER:
        drawn = ladder(law, subject)[line.number]
    else:
        drawn = law.cases.of_block(bytes.fromhex(line.block), line.number, subject.domain)
    return law.arguments(drawn)


def _what(line: JournalLine) -> str:
    if line.outcome == "died" and line.message:
        return f"the device failed: the call {line.message}"
    return WHAT[line.outcome].format(limit=line.limit)


def _where(line: JournalLine) -> str:
    return f"{line.implementation}, {line.dtype} on {line.device}"


def message(line: JournalLine, statement: str, failure: Failure, after: list[str]) -> str:
    """Return the message: the law, the end of the process, the case. after: the last lines."""
    finding = failure.broken.finding
    lines = [
        f"{line.law}: {statement}",
        f"{finding.computed} while it called {_where(line)}:",
        f"  {finding.note}",
        "on the case",
        "  from dmat.strategies import *",
        *(f"  {line}" for line in shown(failure.case).splitlines()),
        *building(failure.case, line.device),
    ]
    return "\n".join([*lines, *after])

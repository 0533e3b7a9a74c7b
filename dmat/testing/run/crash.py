"""Report a dead worker process: the case that it was trying becomes a counterexample like any other."""

from __future__ import annotations

from pathlib import Path

from dmat.strategies.recipes.recipe import shown
from dmat.testing.case_file import case_of, encoded
from dmat.testing.counterexample.folder import case_file, folder_name, next_steps, write
from dmat.testing.explain.message import building
from dmat.testing.kernel.select import implementation_named
from dmat.testing.law.kinds import subject_of
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.journal import SLOW, Entry, note_fate
from dmat.testing.run.session import Keeping
from dmat.testing.verdict.finding import Failure, Finding, LawBroken, Look

DEADLY = "not made smaller: every try costs a process"
WHAT = {"died": "the process died", "did not end": "no result in {limit:.0f} s"}


def record_of(entry: Entry, journals: Path, folder: Path | None) -> Record:
    """Return the record of the law that a dead worker was trying. Keep its case in `folder`, unless None."""
    record = Record(entry.law, entry.implementation, entry.dtype, entry.device, "failed", part=entry.part)
    entry.ended = entry.outcome
    record.examples, record.ended = entry.examples, entry.outcome
    if entry.ended == "broken":  # the worker found a failure, then left because its GPU had failed
        record.reason, record.folder = entry.message, entry.folder or None
    else:
        note_fate(journals, entry, entry.ended)
        record.reason = f"{entry.law}: {_what(entry)} while it called {_where(entry)}"
        try:
            _note_case(entry, record, folder)
        except Exception as error:  # the death is reported even if the case cannot be kept
            record.reason += f"; its case could not be kept: {type(error).__name__}: {error}"
    return record


def _note_case(entry: Entry, record: Record, folder: Path | None) -> None:
    """Put the case that the worker was trying into the record, and write its counterexample folder."""
    implementation, fate, what = implementation_named(entry.implementation), entry.outcome, _what(entry)
    law = law_named(entry.law, implementation.kind)
    if entry.case is None:
        return
    case = case_of(entry.case, None)
    record.case, record.recipe = shown(case), encoded(case)
    note = DEADLY if fate == "died" else SLOW
    finding = Finding("call", (), what, "a result", note=note, what="died")
    failure = Failure(case, LawBroken(finding), ended=fate)
    subject = subject_of(implementation, entry.dtype, entry.device)
    file = case_file(law, subject, failure)
    home = None if folder is None else folder / folder_name(file)
    record.reason = message(entry, law.statement, failure, [] if home is None else next_steps(home, file))
    if home is not None:
        write(home, law, subject, failure, file, [Look(case, finding)], record.reason, Keeping())
        record.folder = str(home)


def _what(entry: Entry) -> str:
    return WHAT[entry.outcome].format(limit=entry.limit)


def _where(entry: Entry) -> str:
    return f"{entry.implementation}, {entry.dtype} on {entry.device}"


def message(entry: Entry, statement: str, failure: Failure, after: list[str]) -> str:
    """Return the message: the law, the end of the process, the case. after: the last lines."""
    finding = failure.broken.finding
    lines = [
        f"{entry.law}: {statement}",
        f"{finding.computed} while it called {_where(entry)}:",
        f"  {finding.note}",
        "on the case",
        "  from dmat.strategies import *",
        *(f"  {line}" for line in shown(failure.case).splitlines()),
        *building(failure.case, entry.device),
    ]
    return "\n".join([*lines, *after])

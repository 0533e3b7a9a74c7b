"""The tasks of a fuzzing process: list the cells, run turns, and settle the failures of dead processes.

This module loads torch. Therefore tasks.py imports it only after the GPU of the process has been chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dmat.testing import devices
from dmat.testing.case_file import FILE, case_of, decoded, encoded, read
from dmat.testing.causes.compare import alike, explains, one_cause
from dmat.testing.causes.known import Cause, Cell
from dmat.testing.counterexample.corpus import Corpus, current, require_there
from dmat.testing.counterexample.folder import machine, versions
from dmat.testing.devices import CPU, free_memory
from dmat.testing.errors import CaseError, DidNotEnd
from dmat.testing.fuzzing.messages import (
    AHEAD,
    COUNTEREXAMPLES,
    Done,
    Found,
    Layout,
    PlannedCell,
    Setup,
    Turn,
)
from dmat.testing.fuzzing.profile import fuzzing, require_fuzzing
from dmat.testing.fuzzing.turn import Going
from dmat.testing.kernel.select import implementation_named, select
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named, laws, rank
from dmat.testing.run.attempt import without_end
from dmat.testing.run.crash import crash_record
from dmat.testing.run.journal import Journal, JournalLine, first_to_go, left_behind
from dmat.testing.run.run import leave_a_failed_device
from dmat.testing.run.session import Session
from dmat.testing.run.shrink import attempted
from dmat.testing.verdict.finding import Failure, Finding, LawBroken

LEAST_OF_EXPENSIVE = 10  # minimum examples of a turn, if each example needs a compilation or a process
SHARE = 0.3  # fraction of a GPU's free memory that one D~ may fill; its cotangent is as large


@dataclass
class Process:
    """The state of this process: its configuration, its journal and folders, and the loaded subjects."""

    setup: Setup
    session: Session
    profile: Any
    subjects: dict[tuple[str, str, str], Subject] = field(default_factory=dict)


_this: list[Process] = []


def begin(setup: Setup) -> None:
    """Initialise this process on the chosen GPU: one thread, the journal, and the Hypothesis profile."""
    torch.set_num_threads(1)
    _warm_up(devices.here()[-1] if setup.devices else CPU)
    journal = Journal(Path(setup.journals), setup.limit)
    first_to_go()
    session = Session(journal, None, Path(setup.shared) / COUNTEREXAMPLES, replaceable=True)
    _this[:] = [Process(setup, session, fuzzing(Path(setup.shared)))]


def _warm_up(device: str) -> None:
    """Run one backward. It loads libraries and the device's context, which no example's time should have."""
    x = torch.zeros(1, device=device, requires_grad=True)
    torch.autograd.grad(x.logsumexp(0), x)


# The cells


def lay_out(
    targets: Sequence[str], devices: Sequence[str], dtypes: Sequence[str], corpora: Sequence[str] = ()
) -> Layout:
    """Load the targets and return every cell. corpora: corpus folders that must exist.

    Raises TargetError, SelectionError or CorpusError if a target, the selection or a corpus is invalid, and
    NoFuzzing if the Hypothesis profile is.
    """
    require_fuzzing(_this[0].profile)
    require_there([Path(folder) for folder in corpora])
    chosen = select(targets, devices, dtypes)
    corpus = current([Path(folder) for folder in _this[0].setup.corpora], chosen)
    cells = []
    kinds = dict.fromkeys(implementation.kind for implementation, _, _ in chosen)
    stated = [law for of in kinds for law in laws(of)]
    for law in stated:
        for implementation, dtype, device in [one for one in chosen if one[0].kind == law.kind]:
            cell = Cell(law.name, implementation.name, dtype, device)
            reason = law.not_applicable(subject_of(implementation, dtype, device)) or ""
            listed = corpus.known_for(law.name, implementation.name, dtype) if corpus else None
            if listed and not reason:
                known = listed.known
                reason = f"known until {known.expires}: {known.reason} ({known.link})"
            least = min(law.max_examples or 1, LEAST_OF_EXPENSIVE)
            cells.append(PlannedCell(cell, rank(law), least, reason, listed is not None))
    contracts = {i.name: _as_json(i.contract.stated()) for i, _, _ in chosen}
    where = machine(next((device for _, _, device in chosen if device != CPU), CPU))
    return Layout(cells, contracts, {law.name: law.statement for law in stated}, where, versions())


def _as_json(contract: dict[str, Any]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else str(value) for name, value in contract.items()}


def _subject(cell: Cell) -> Subject:
    key = (cell.implementation, cell.dtype, cell.device)
    if key not in _this[0].subjects:
        implementation = implementation_named(cell.implementation)
        _this[0].subjects[key] = subject_of(implementation, cell.dtype, cell.device)
    return _this[0].subjects[key]


# Turns


def take(turn: Turn) -> Done:
    """Run a turn. If a case kills this process or does not end, the journal holds the case."""
    process, cell, subject = _this[0], turn.cell, _subject(turn.cell)
    journal = process.session.journal
    assert journal is not None
    expensive = law_named(cell.law, subject.kind).cost == "costly"
    line = JournalLine(
        turn.name, cell.law, cell.implementation, cell.dtype, cell.device, "all", journal.limit, expensive
    )
    with journal.of(line):
        going = _going(turn, process.setup.cutoff)
        going.trouble = _uncallable(going, subject)
        done = going.done() if going.trouble else going.go()
        if done.found and cell.device != CPU:
            leave_a_failed_device(journal, cell.device, done.found[-1].message, done.found[-1].folder)
    return done


def _going(turn: Turn, cutoff: float) -> Going:
    process, ahead = _this[0], Path(_this[0].setup.folder) / AHEAD
    session = replace(process.session, corpus=_corpus(process.setup.corpora))
    subject, memory = _subject(turn.cell), _memory(turn.cell.device)
    return Going(turn, subject, session, process.profile, ahead, cutoff, memory)


@cache
def _corpus(folders: tuple[str, ...]) -> Any:
    """Return the corpus: the cases to try first."""
    return Corpus.read(*(Path(folder) for folder in folders if Path(folder).is_dir()))


def _uncallable(going: Going, subject: Subject) -> str:
    """Make the smoke call. Return the reason if it fails, else "".

    The smoke call is made once per process, and no more once it has killed a process or has not ended in one.
    """
    plainest = {"gates": subject.plainest}
    assert going.session.journal is not None
    outcome = going.session.journal.smoke_call_outcome
    try:
        if not outcome:
            with going.session.trying(plainest, plainest=True):
                going.uncallable = subject.uncallable is not None
                return subject.uncallable or ""
    except DidNotEnd:
        outcome = "did not end"
        going.found.append(going.settled(without_end(plainest, outcome)))
    return f"the plainest call there is: {outcome}"


def _memory(device: str) -> int:
    """Return the number of bytes that one D~ may fill: SHARE of the free memory, divided by the processes.

    0 on the CPU, and where torch cannot say. The processes are those that share this device.
    """
    return int(SHARE * (free_memory(device) or 0) / _this[0].setup.sharing)


# Failures that dead processes left


def once_more(turn: Turn) -> None:
    """Retry the last case of a turn whose process died. The case may kill this process too."""
    line = left_behind(Path(_this[0].setup.journals), turn.name)
    if line is not None and line.case is not None:
        with suppress(LawBroken):
            subject = _subject(turn.cell)
            law_named(line.law, subject.kind).check(subject, **case_of(line.case, None))


def settle_crash(turn: Turn) -> Found | None:
    """Return the last case of a turn whose process died, as a failure. None if the turn had tried no case.

    The case is kept as a counterexample, unless a known cause ended in the same way.
    """
    setup = _this[0].setup
    line = left_behind(Path(setup.journals), turn.name)
    if line is None or (line.case is None and line.ended != "broken"):
        return None
    outcome = line.outcome
    known = next((cause for cause in turn.causes if cause.ended == outcome), None)
    if outcome != "broken" and known is not None:
        record = crash_record(line, Path(setup.journals), None)
    else:
        known, record = None, crash_record(line, Path(setup.journals), Path(setup.shared) / COUNTEREXAMPLES)
    return Found(
        turn.cell,
        f"call: {outcome}",
        record.recipe or _recipe_in(record.folder),
        record.case or "",
        record.reason,
        record.ended or outcome,
        cause=known.number if known else None,
        folder=Path(record.folder).name if record.folder else None,
    )


def _recipe_in(folder: str | None) -> str:
    """Return the case of a counterexample's folder as a line of JSON, or "{}" without a folder."""
    return encoded(case_of(read(Path(folder) / FILE).case, Path(folder))) if folder else "{}"


def settle(folder: str, turn: Turn) -> Found | None:
    """Retry and shrink a failure that an earlier sitting did not settle. None if its file cannot be read.

    folder: folder of the case. turn: a turn of the same cell, made only for this call.
    """
    try:
        file = read(Path(folder) / FILE)
        case = case_of(file.case, Path(folder))
    except CaseError:
        return None
    subject = _subject(turn.cell)
    going = _going(turn, float("inf"))
    finding = file.finding
    lost = (
        Finding("call", (), "a failure", "none", what="died")
        if finding is None
        else Finding(
            finding.quantity,
            finding.index,
            finding.computed,
            finding.exact,
            note=finding.note,
            what=finding.what or "value",
        )
    )
    if file.ended == "broken":
        law = law_named(turn.cell.law, subject.kind)
        broken = attempted(lambda case: law.check(subject, **case), case)
        return going.settled(Failure(case, broken or LawBroken(lost), reproducible=broken is not None))
    return going.settled(Failure(case, LawBroken(lost), ended=file.ended))


def compare(found: Found, causes: tuple[Cause, ...]) -> int | None:
    """Return the number of the cause that explains a failure, or None.

    causes: causes that were found while the turn of the failure was running.
    """
    trying, subject = _this[0].session.trying, _subject(found.cell)
    law, case = law_named(found.cell.law, subject.kind), decoded(found.recipe)
    for cause in alike(causes, found.ended):
        if (
            found.ended != "broken"
            or explains(cause, law, subject, trying)
            or one_cause(case, found.symptom, cause, law, subject, trying)
        ):
            return cause.number
    return None

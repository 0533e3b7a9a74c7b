"""A worker process of a fuzzing run: it lays out cells, takes turns, and settles cases that others left.

It loads torch: tasks.py loads this file when the process' GPU has been chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dmat.testing.case_file import FILE, case_of, decoded, encoded, read
from dmat.testing.counterexample.corpus import Corpus, current, require_there
from dmat.testing.counterexample.folder import machine, versions
from dmat.testing.errors import CaseError, DidNotEnd
from dmat.testing.fuzzing.causes import alike, explains, one_cause
from dmat.testing.fuzzing.messages import (
    AHEAD,
    COUNTEREXAMPLES,
    Cause,
    Cell,
    Done,
    Found,
    Layout,
    Planned,
    Setup,
    Turn,
)
from dmat.testing.fuzzing.profile import fuzzing, require_fuzzing
from dmat.testing.fuzzing.turn import Going
from dmat.testing.kernel.select import implementation_named, select
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named, laws
from dmat.testing.run.crash import record_of
from dmat.testing.run.journal import Entry, Journal, first_to_go, left_behind
from dmat.testing.run.search import leave_a_failed_device, without_end
from dmat.testing.run.session import Keeping
from dmat.testing.run.shrink import attempted
from dmat.testing.verdict.finding import Failure, Finding, LawBroken

LEAST_OF_DEAR = 10  # examples of a law of which one costs a compilation or a process
SHARE = 0.3  # of the free memory of a GPU that one D~ may fill: its cotangent is as large


@dataclass
class Process:
    """The state of this process: its output folder, and the kernels that it has loaded."""

    setup: Setup
    keeping: Keeping
    profile: Any
    subjects: dict[tuple[str, str, str], Subject] = field(default_factory=dict)


_this: list[Process] = []


def begin(setup: Setup) -> None:
    """Begin, on the GPU that was chosen: one thread, a journal, the profile."""
    torch.set_num_threads(1)
    _warm_up("cuda" if setup.devices and torch.cuda.is_available() else "cpu")
    journal = Journal(Path(setup.journals), setup.limit)
    first_to_go()
    keeping = Keeping(journal, None, Path(setup.shared) / COUNTEREXAMPLES)
    _this[:] = [Process(setup, keeping, fuzzing(Path(setup.shared)))]


def _warm_up(device: str) -> None:
    """Load what the first backward of a process loads, and CUDA's context: no example is timed with it."""
    x = torch.zeros(1, device=device, requires_grad=True)
    torch.autograd.grad(x.logsumexp(0), x)


# What is tried


def lay_out(
    targets: Sequence[str], devices: Sequence[str], dtypes: Sequence[str], corpora: Sequence[str] = ()
) -> Layout:
    """Load the targets, and return every cell. corpora: folders that must be there.

    TargetError, SelectionError, CorpusError where one is wrong; NoFuzzing where the profile is.
    """
    require_fuzzing(_this[0].profile)
    require_there([Path(folder) for folder in corpora])
    chosen = select(targets, devices, dtypes)
    corpus = current([Path(folder) for folder in _this[0].setup.corpora], chosen)
    cells = []
    kinds = dict.fromkeys(implementation.kind for implementation, _, _ in chosen)
    entries = [entry for of in kinds for entry in laws(of)]
    for entry in entries:
        for implementation, dtype, device in [one for one in chosen if one[0].kind == entry.kind]:
            cell = Cell(entry.name, implementation.name, dtype, device)
            reason = entry.not_applicable(subject_of(implementation, dtype, device)) or ""
            listed = corpus.known_for(entry.name, implementation.name, dtype) if corpus else None
            if listed and not reason:
                known = listed.known
                reason = f"known until {known.expires}: {known.reason} ({known.link})"
            least = 1 if entry.most is None else min(entry.most, LEAST_OF_DEAR)
            cells.append(Planned(cell, entry.order, least, reason, listed is not None))
    contracts = {i.name: _as_json(i.contract.stated()) for i, _, _ in chosen}
    where = machine("cuda" if any(device == "cuda" for _, _, device in chosen) else "cpu")
    return Layout(cells, contracts, {entry.name: entry.statement for entry in entries}, where, versions())


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
    """Take a turn. What kills this process, or does not end, is in its journal."""
    process, cell, subject = _this[0], turn.cell, _subject(turn.cell)
    journal = process.keeping.journal
    assert journal is not None
    dear = law_named(cell.law, subject.kind).most is not None
    entry = Entry(
        turn.name, cell.law, cell.implementation, cell.dtype, cell.device, "all", journal.limit, dear
    )
    with journal.of(entry):
        going = _going(turn, process.setup.cutoff)
        going.trouble = _uncallable(going, subject)
        done = going.done() if going.trouble else going.go()
        if done.found and cell.device == "cuda":
            leave_a_failed_device(journal, done.found[-1].message, done.found[-1].folder)
    return done


def _going(turn: Turn, cutoff: float) -> Going:
    process, ahead = _this[0], Path(_this[0].setup.folder) / AHEAD
    keeping = replace(process.keeping, corpus=_corpus(process.setup.corpora))
    subject, memory = _subject(turn.cell), _memory(turn.cell.device)
    return Going(turn, subject, keeping, process.profile, ahead, cutoff, memory)


@cache
def _corpus(folders: tuple[str, ...]) -> Any:
    """Return the cases to try first."""
    return Corpus.read(*(Path(folder) for folder in folders if Path(folder).is_dir()))


def _uncallable(going: Going, subject: Subject) -> str:
    """Return why the plainest call there is cannot be made; it is made once a process, and may end it."""
    plainest = {"gates": subject.plainest}
    assert going.keeping.journal is not None
    fate = going.keeping.journal.fate_of_plainest
    try:
        if not fate:
            with going.keeping.trying(plainest, plainest=True):
                return subject.uncallable or ""
    except DidNotEnd:
        fate = "did not end"
        going.found.append(going.settled(without_end(plainest, fate)))
    return f"the plainest call there is: {fate}"


def _memory(device: str) -> int:
    """Return how many bytes a D~ may fill: a share of what is free now, among the processes of this GPU."""
    if device != "cuda":
        return 0

    return int(SHARE * torch.cuda.mem_get_info()[0] / _this[0].setup.sharing)


# What was left by others


def once_more(turn: Turn) -> None:
    """Try what a turn whose process is gone was trying; it may end this process too."""
    entry = left_behind(Path(_this[0].setup.journals), turn.name)
    if entry is not None and entry.case is not None:
        with suppress(LawBroken):
            subject = _subject(turn.cell)
            law_named(entry.law, subject.kind).check(subject, **case_of(entry.case, None))


def mourn(turn: Turn) -> Found | None:
    """Return what a turn whose process is gone was trying, its case kept; None if it tried nothing."""
    setup = _this[0].setup
    entry = left_behind(Path(setup.journals), turn.name)
    if entry is None or (entry.case is None and entry.ended != "broken"):
        return None
    fate = entry.outcome
    known = next((cause for cause in turn.causes if cause.ended == fate), None)
    if fate != "broken" and known is not None:
        record = record_of(entry, Path(setup.journals), None)
    else:
        known, record = None, record_of(entry, Path(setup.journals), Path(setup.shared) / COUNTEREXAMPLES)
    return Found(
        turn.cell,
        f"call: {fate}",
        record.recipe or _recipe_in(record.folder),
        record.case or "",
        record.reason,
        record.ended or fate,
        cause=known.number if known else None,
        folder=Path(record.folder).name if record.folder else None,
    )


def _recipe_in(folder: str | None) -> str:
    """Return the case that is kept there as a line of JSON."""
    return encoded(case_of(read(Path(folder) / FILE).case, Path(folder))) if folder else "{}"


def settle(folder: str, turn: Turn) -> Found | None:
    """Try a case that was written ahead once more, and make it small; None where it cannot be read.

    folder: of the case. turn: none that was taken, but of its cell.
    """
    try:
        file = read(Path(folder) / FILE)
        case = case_of(file.case, Path(folder))
    except CaseError:
        return None
    subject = _subject(turn.cell)
    going = _going(turn, float("inf"))
    finding = file.finding
    told = (
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
        return going.settled(Failure(case, broken or LawBroken(told), again=broken is not None))
    return going.settled(Failure(case, LawBroken(told), ended=file.ended))


def compare(found: Found, causes: tuple[Cause, ...]) -> int | None:
    """Return the number of the cause that explains a failure after all: both were found at the same time."""
    trying, subject = _this[0].keeping.trying, _subject(found.cell)
    entry, case = law_named(found.cell.law, subject.kind), decoded(found.recipe)
    for cause in alike(causes, found.ended):
        if (
            found.ended != "broken"
            or explains(cause, entry, subject, trying)
            or one_cause(case, found.symptom, cause, entry, subject, trying)
        ):
            return cause.number
    return None

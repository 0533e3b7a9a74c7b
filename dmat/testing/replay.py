"""Counterexamples tried again: still broken, fixed, or could not be run; and kept in a corpus.

The law and the case decide, and nothing else: no name of a test, no source, no version of Hypothesis. Cases
are tried in a process of their own, for a kernel may kill it or never return. What a case file names is shown
and never imported.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmat.testing.processes import Died, OutOfTime, Tell, apart

BROKEN, FIXED, COULD_NOT = "STILL BROKEN", "FIXED", "COULD NOT RUN"
FILE = "case.json"
SECONDS = 60.0  # a try may take
STARTING = 120.0  # seconds until torch and the kernel must be imported
LEAST_TRIES = 2  # once in a process that has made no call, once in one that has
TRIES, SECONDS_OF_TRIES = 100, 2.0  # until a case that holds is fixed: some kernels fail by chance


@dataclass(frozen=True)
class Outcome:
    """What became of a case, and why, in some lines."""

    path: Path
    status: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """What the cases are tried on: a TARGET, a device, a dtype; None for what the case says."""

    target: str | None = None
    device: str | None = None
    dtype: str | None = None


def found(path: Path) -> list[Path]:
    """Return the case files of a path: itself, that of a folder, or all below it."""
    if path.is_dir():
        return [path / FILE] if (path / FILE).is_file() else sorted(path.rglob(FILE))
    return [path] if path.is_file() else []


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """1: some case is still broken. 2: none is, but some could not be run. 0: all are fixed."""
    statuses = {outcome.status for outcome in outcomes}
    return 1 if BROKEN in statuses else 2 if COULD_NOT in statuses or not statuses else 0


def replay(files: Sequence[Path], wanted: Wanted, seconds: float = SECONDS) -> list[Outcome]:
    """Try the cases of these files again; the process is replaced where one of them ends it."""
    outcomes: list[Outcome] = []
    trying = False

    def heard(told: Outcome | None) -> float:
        nonlocal trying
        trying = told is None
        if told is not None:
            outcomes.append(told)
        return seconds

    while len(outcomes) < len(files):
        left, trying = files[len(outcomes) :], False
        try:
            apart(_replay_here, left, wanted, heard=heard, seconds=STARTING)
        except (Died, OutOfTime) as end:
            late = isinstance(end, OutOfTime)
            if trying:
                what = f"no result in {seconds:.0f} s" if late else f"the process died: {end}"
                outcomes.append(Outcome(files[len(outcomes)], BROKEN, what))
            else:
                what = f"no end in {STARTING:.0f} s" if late else str(end)
                outcomes += [Outcome(file, COULD_NOT, f"importing the kernel: {what}") for file in left]
        except RuntimeError as error:  # the TARGET is none
            outcomes += [Outcome(file, COULD_NOT, str(error).partition(": ")[2]) for file in left]
    return outcomes


# In the process of its own


def _replay_here(files: Sequence[Path], wanted: Wanted, tell: Tell) -> None:
    """Tell None before each case and each try of it, and its outcome after it."""
    import torch

    from dmat.testing.target import load

    torch.set_num_threads(1)
    implementation = None if wanted.target is None else load(wanted.target)
    for file in files:
        tell(None)
        tell(_outcome(file, implementation, wanted, tell))


def _outcome(file: Path, implementation: Any, wanted: Wanted, tell: Tell) -> Outcome:
    import torch

    from dmat.testing.builtin import BUILTIN
    from dmat.testing.casefile import CaseError, case_of, read

    try:
        told = read(file)
        case = case_of(told.case, file.parent)
    except CaseError as error:
        return Outcome(file, COULD_NOT, str(error))
    if implementation is None:
        implementation = next((i for i in BUILTIN if i.name == told.implementation), None)
    if implementation is None:
        why = f"pass --impl TARGET: the case is of {told.implementation}, which is not imported by itself"
        return Outcome(file, COULD_NOT, why)
    torch.manual_seed(told.seed)
    dtype, device = wanted.dtype or told.dtype, wanted.device or told.device
    return Outcome(file, *tried(told.law, implementation, dtype, device, case, lambda: tell(None)))


def tried(
    law: str,
    implementation: Any,
    dtype: str,
    device: str,
    case: Any,
    before: Callable[[], None] = lambda: None,
) -> tuple[str, str]:
    """Try a law on a case, in this process, TRIES times as far as time allows; return the status, and why.

    before: called before each try.
    """
    from dmat.testing.kinds import subject_of
    from dmat.testing.registry import law_named
    from dmat.testing.subject import Refused
    from dmat.testing.verdict import LawBroken

    try:
        entry = law_named(law, implementation.kind)
    except KeyError:
        return COULD_NOT, f"there is no law {law!r}"
    if dtype not in implementation.contract.dtypes:
        return COULD_NOT, f"{implementation.name} does not promise {dtype}"
    if device not in implementation.devices:
        return (
            COULD_NOT,
            f"{implementation.name} does not promise {device}, or this machine has none: see --device",
        )
    subject = subject_of(implementation, dtype, device)
    case = in_dtype(case, subject.domain.dtype)
    until = time.monotonic() + SECONDS_OF_TRIES
    try:
        reason = entry.why_not(subject, case)
        for number in range(TRIES if reason is None else 0):
            if number < LEAST_TRIES or time.monotonic() < until:
                before()
                entry.check(subject, **case)
                _other_call(subject, case)
    except LawBroken as broken:
        reason = None if broken.finding.index else _uncallable(implementation, dtype, device)
        return (COULD_NOT, f"{implementation.name} {reason}") if reason else (BROKEN, str(broken))
    except Refused as refusal:
        return COULD_NOT, str(refusal)
    except Exception as error:  # a law at a loss accuses nobody
        return COULD_NOT, f"the law itself raised {type(error).__name__}: {error}"
    return (FIXED, f"{law} holds") if reason is None else (COULD_NOT, reason)


def _uncallable(implementation: Any, dtype: str, device: str) -> str | None:
    """Return why the plainest call cannot be made, or None; None, too, where the case broke the device."""
    import torch

    from dmat.testing.kinds import subject_of

    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return None
    return subject_of(implementation, dtype, device).uncallable


def _other_call(subject: Any, case: Any) -> None:
    """Call the kernel on other gates of the same shape: it may answer by what it answered before."""
    from contextlib import suppress

    from dmat.testing.verdict import LawBroken

    if "gates" in case:
        with suppress(LawBroken):
            subject.answer(case, subject.other_gates(case["gates"]))


def in_dtype(case: Any, dtype: str) -> Any:
    """Return the case with its gates in another dtype, rounded anew."""
    from dmat.strategies import Gates

    return {n: replace(part, dtype=dtype) if isinstance(part, Gates) else part for n, part in case.items()}


# Keeping


def keep(files: Sequence[Path], corpus: Path) -> list[Path]:
    """Copy these cases into the corpus, each under its own name; return their folders.

    CaseError where a file is no case; then none is copied.
    """
    from dmat.testing.casefile import TENSORS, read
    from dmat.testing.keep import folder_name, put

    homes = [(file, corpus / folder_name(read(file))) for file in files]
    corpus.mkdir(parents=True, exist_ok=True)
    for file, home in homes:
        beside = Path(tempfile.mkdtemp(prefix=".", dir=corpus))
        try:
            for name in (FILE, TENSORS):
                source = file if name == FILE else file.parent / name
                if source.is_file():
                    shutil.copyfile(source, beside / name)
            if home.resolve() != file.parent.resolve():
                put(beside, home)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return [home for _, home in homes]

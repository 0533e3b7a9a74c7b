"""Replay counterexamples (still broken, fixed, could not run), and copy them into a corpus.

A replay depends on the law and the case alone, not on a test's name, a source file or a version of
Hypothesis. Cases run in a child process, because a kernel may kill it or never return. A name in a case file
is shown and never imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dmat.testing.counterexample.outcome import BROKEN, COULD_NOT, Outcome, Wanted
from dmat.testing.errors import CannotRun, CaseError, Died, OutOfTime
from dmat.testing.interpret.choice import caveat, interpreter_record
from dmat.testing.processes import Run, Send, apart

FILE = "case.json"
SECONDS = 60.0  # limit of one try
STARTING = 120.0  # limit in seconds for importing torch and the kernel


def found(path: Path) -> list[Path]:
    """Return the case files of a path: the file itself, those of the folder, or of all folders below it."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    homes = [path] if (path / FILE).is_file() else sorted(file.parent for file in path.rglob(FILE))
    return [file for home in homes for file in (home / FILE, *sorted(home.glob("also/*.json")))]


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 1 if a case is still broken, else 2 if a case could not run or there is none, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    return 1 if BROKEN in statuses else 2 if COULD_NOT in statuses or not statuses else 0


def replay(
    files: Sequence[Path], wanted: Wanted, seconds: float = SECONDS, run: Run = apart
) -> list[Outcome]:
    """Replay the cases of these files in a child process. If a case ends the process, start another.

    run: calls the replay in a child process, or in this one.
    """
    outcomes: list[Outcome] = []
    trying = False

    def heard(interpreter_record: Outcome | None) -> float:
        nonlocal trying
        trying = interpreter_record is None
        if interpreter_record is not None:
            outcomes.append(interpreter_record)
        return seconds

    while len(outcomes) < len(files):
        left, trying = files[len(outcomes) :], False
        try:
            run(_replay_here, left, wanted, heard=heard, seconds=STARTING)
        except (Died, OutOfTime) as end:
            late = isinstance(end, OutOfTime)
            if trying:
                what = f"no result in {seconds:.0f} s" if late else f"the process died: {end}"
                outcomes.append(Outcome(files[len(outcomes)], BROKEN, what))
            else:
                what = f"no end in {STARTING:.0f} s" if late else str(end)
                outcomes += [Outcome(file, COULD_NOT, f"importing the kernel: {what}") for file in left]
        except RuntimeError as error:  # the child raised: it cannot load the TARGET
            outcomes += [Outcome(file, COULD_NOT, str(error).partition(": ")[2]) for file in left]
    return outcomes


def _replay_here(files: Sequence[Path], wanted: Wanted, send: Send) -> None:
    """Run in the child: tell None before each case and each try, and the outcome after each case."""
    from dmat.testing.counterexample.attempt import attempts

    for outcome in attempts(files, wanted, send):
        send(outcome)


def page_of(outcomes: Sequence[Outcome]) -> str:
    """Return the outcome of each case, in one or more lines."""
    lines = []
    for outcome in outcomes:
        first, *others = outcome.text.splitlines()
        where = outcome.path.parent if outcome.path.name == FILE else outcome.path
        lines += [f"{outcome.status}  {where}: {first}", *(f"  {line}" for line in others)]
    interpreter = interpreter_record()
    return "\n".join(lines + ([] if interpreter is None else [caveat(interpreter)]))


def command(options: argparse.Namespace) -> int:
    """Replay, print the outcome of each case, and return the exit code."""
    for path in options.paths:
        if not found(path):
            raise CannotRun(f"PATH is {str(path)!r}; there is no case.json in it")
    files = list(dict.fromkeys(file for path in options.paths for file in found(path)))
    outcomes = replay(files, Wanted(options.impl, options.device, options.dtype), options.time_limit)
    print(page_of(outcomes))
    if options.keep:
        _keep(files, options.corpus)
    return exit_code(outcomes)


def _keep(files: Sequence[Path], corpus: Path) -> None:
    from dmat.testing.counterexample.folder import keep

    try:
        for home in keep(files, corpus):
            print(f"kept: {home}")
    except CaseError as error:
        raise CannotRun(f"nothing was kept: {error}") from None

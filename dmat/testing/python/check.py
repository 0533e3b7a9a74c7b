"""`dmat.check`, `dmat.grade` and `dmat.replay`: the commands, on a function of this process."""

from __future__ import annotations

import os
import pickle
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dmat.testing.check.judge import WITHOUT_END, judged, with_kept_folders
from dmat.testing.check.page import show_all
from dmat.testing.check.plan import EXAMPLES, Request
from dmat.testing.check.work import work_here
from dmat.testing.check.workers import Workers
from dmat.testing.contract.names import require_known
from dmat.testing.counterexample.folder import PICTURE
from dmat.testing.counterexample.outcome import Wanted
from dmat.testing.counterexample.replay import FILE, found, page_of
from dmat.testing.counterexample.replay import replay as replayed
from dmat.testing.errors import CannotRun
from dmat.testing.grade.command import graded
from dmat.testing.grade.dtilde import EXAMPLES as GRADED
from dmat.testing.grade.report import show
from dmat.testing.kernel.given import Given, given, giving
from dmat.testing.kernel.load import load_with
from dmat.testing.kernel.select import select
from dmat.testing.output import as_text
from dmat.testing.processes import Run, apart, here, preparing
from dmat.testing.python.arguments import (
    path_of,
    require_count,
    require_flags,
    require_seconds,
    require_seed,
)
from dmat.testing.python.results import Grades, Replay, Verdict
from dmat.testing.python.untouched import untouched
from dmat.testing.record import Report

TIME_LIMIT = 60.0  # seconds of one example
OF_LAWS = 2 / 3  # the share of the time that the laws may take; the rest is for the causes
MOST = 1000  # random cases per law and dtype where a time alone is given
Names = str | Sequence[Any]


def check(
    fn: Callable[..., Any],
    *,
    dtypes: Names = (),
    devices: Names = (),
    first: bool = False,
    seconds: float | None = None,
    examples: int | None = None,
    seed: int | None = None,
    isolated: bool = False,
    counterexamples: str | os.PathLike[str] | None = "counterexamples",
    **promises: Any,
) -> Verdict:
    """Try every law on a kernel, as `dmat check` does, and return the verdict.

    fn: a function (igate_preact, fgate_preact) -> D~, or a fused one. It is held to its decorator. promises:
    of a function without one, the fields of dmat.testing.Contract or, with reads=, those of
    dmat.testing.fused. dtypes, devices: default all that it promises. first: stop at the first broken law.

    seconds: how long at most, of the wall clock; a law that was not reached is not run, and its kernel not
    sound. examples: random cases a law and dtype, beside its ladder; default 200, with `seconds` as many as
    it allows, to 1000. seed: of the random cases; default: a new one. counterexamples: the folder where
    failures are kept; None: nowhere.

    isolated: call the kernel in processes of their own, one a core (one, with `first`), so that it may crash
    or hang. It must then be importable by its file or module. Otherwise it is called in this process, whose
    state is as before afterwards: threads, random numbers, default dtype, deterministic flags, grad mode.

    Raises TypeError for promises beside a decorator, and dmat.testing.errors.CannotRun if nothing can be
    checked.
    """
    require_seconds("seconds", seconds)
    require_count("examples", examples)
    require_seed("seed", seed)
    require_flags(first=first, isolated=isolated)
    folder_of_failures = _folder(counterexamples)
    kernel, began = given(fn, promises), time.monotonic()
    end = WITHOUT_END if seconds is None else began + seconds
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder, _ready(kernel, isolated) as run:
        request = Request(
            [kernel.implementation.name],
            names(devices),
            names(dtypes),
            examples or (EXAMPLES if seconds is None else MOST),
            TIME_LIMIT,
            [],
            folder_of_failures,
            Path(folder),
            first=first,
            seed=secrets.randbelow(2**32) if seed is None else seed,
            until=None if seconds is None else began + OF_LAWS * seconds,
            processes=1 if first or not isolated else os.cpu_count() or 1,
        )
        require_known(request.targets if isolated else (), request.devices, request.dtypes)
        tried = (lambda asked: Workers(asked).run()) if isolated else work_here
        [report], plan = judged(request, tried, run, end)
        page = as_text(lambda console: show_all([report], console, plan.families, first=first))
        if not first and time.monotonic() < end:
            report = with_kept_folders(report, run)
    return Verdict(report, page.rstrip("\n"), _picture(report))


def grade(
    fn: Callable[..., Any],
    *,
    dtypes: Names = (),
    devices: Names = (),
    examples: int | None = None,
    isolated: bool = False,
    **promises: Any,
) -> Grades:
    """Find the strictest accuracy class that a kernel survives, as `dmat grade` does.

    fn, dtypes, devices, isolated, promises: as dmat.check takes them. examples: random cases a dtype; default
    150.
    """
    require_count("examples", examples)
    require_flags(isolated=isolated)
    kernel = given(fn, promises)
    with _ready(kernel, isolated) as run, giving(kernel):
        chosen = select([kernel.implementation.name], names(devices), names(dtypes))
        [report] = graded(chosen, examples or GRADED, run)
    return Grades(report, as_text(lambda console: show([report], console)).rstrip("\n"))


def replay(
    path: str | os.PathLike[str],
    fn: Callable[..., Any],
    *,
    device: str | None = None,
    dtype: str | None = None,
    isolated: bool = False,
    **promises: Any,
) -> Replay:
    """Try counterexamples again on a kernel, as `dmat replay` does: STILL BROKEN, FIXED or COULD NOT RUN.

    path: a case, its folder, or a folder of such. device, dtype: default the case's own. fn, isolated,
    promises: as dmat.check takes them. A case that ended its process is tried with isolated=True alone.
    """
    require_flags(isolated=isolated)
    there = path_of("path", path, "the path of a case, or of a folder")
    files = list(dict.fromkeys(found(there)))
    if not files:
        raise CannotRun(f"path is {str(path)!r}; there is no {FILE} in it")
    kernel = given(fn, promises)
    with _ready(kernel, isolated) as run:
        wanted = Wanted(kernel.implementation.name, device, dtype, deadly=isolated)
        outcomes = tuple(replayed(files, wanted, TIME_LIMIT, run))
    return Replay(outcomes, page_of(outcomes))


@contextmanager
def _ready(kernel: Given, isolated: bool) -> Iterator[Run]:
    """Make the kernel known by its name, in this process or in those to come. Give what calls it there."""
    if not isolated:
        with untouched(), giving(kernel):
            yield here
        return
    name = kernel.implementation.name
    if kernel.nowhere:
        raise TypeError(f"isolated=True imports {name} in other processes, but {kernel.nowhere}")
    with _another_main():
        if not kernel.promises:
            yield apart
            return
        _require_pickled(kernel.promises)
        with preparing(load_with, name, dict(kernel.promises)):
            yield apart


@contextmanager
def _another_main() -> Iterator[None]:
    """Let no new process run the script that is running here: it would check again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _require_pickled(promises: Mapping[str, Any]) -> None:
    for name, value in promises.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            why = f"{name}={value!r} cannot be pickled: {error}"
            raise TypeError(f"isolated=True sends the promises to other processes; {why}") from None


def names(given: Names) -> list[str]:
    """Return names of dtypes or devices: "float32", torch.float32, or a list of such."""
    several = given if isinstance(given, (list, tuple, set, frozenset)) else [given]
    return [str(name).removeprefix("torch.") for name in several]


def _folder(counterexamples: str | os.PathLike[str] | None) -> Path | None:
    if not counterexamples:
        return None
    return path_of("counterexamples", counterexamples, "the path of a folder, or None").resolve()


def _picture(report: Report) -> bytes | None:
    """Return the picture of the first cause that has one in its folder."""
    files = [Path(cause.folder, PICTURE) for cause in report.causes if cause.folder]
    return next((file.read_bytes() for file in files if file.is_file()), None)

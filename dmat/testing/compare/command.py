"""The command `dmat compare`: run both sides, each in a process of its own, and join their results."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from rich.console import Console

from dmat.testing.compare.joined import compared
from dmat.testing.compare.report import show
from dmat.testing.compare.result import Compared, Comparison, Side, Verdict
from dmat.testing.compare.side import ANSWER, JOB, NOW, Answer, Job, Site, arrays_of, cases_of
from dmat.testing.contract.names import require_known
from dmat.testing.errors import CannotRun, Died
from dmat.testing.interpret.choice import EXAMPLES as INTERPRETED
from dmat.testing.interpret.choice import caveat, config_index, interpreter_record
from dmat.testing.output import plain, progress, written
from dmat.testing.record import text_of

EXAMPLES = 100  # random cases a dtype, beside the ladder
SAID = "said"  # what a side prints
SIDE = "dmat.testing.compare.side"
UNPROMISED = "OLD does not promise it"
EXITS = {"not worse": 0, "worse": 1, "error": 2}


@dataclass(frozen=True)
class Running:
    """One side: its name, OLD or NEW, its TARGET, its Python, its folder, and the seconds of a case."""

    name: str
    target: str
    python: str
    folder: Path
    limit: float

    def do(self, step: str, job: Job) -> Answer:
        """Do a step in a new process. Raises CannotRun if it cannot be done, Died if the process dies."""
        (self.folder / JOB).write_bytes(msgspec.json.encode(job))
        for old in (ANSWER, NOW):
            (self.folder / old).unlink(missing_ok=True)
        ended = self._run([self.python, "-m", SIDE, step, str(self.folder)])
        if not (self.folder / ANSWER).is_file():
            raise self._died(ended, step)
        answer = msgspec.json.decode((self.folder / ANSWER).read_bytes(), type=Answer)
        if answer.error:
            raise CannotRun(f"{self.name} cannot be compared: {answer.error}")
        return answer

    def _run(self, call: Sequence[str]) -> str:
        """Run the step to its end, or until a case takes longer than the limit. Return how it ended."""
        with (
            (self.folder / SAID).open("wb") as said,
            subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=said) as process,
        ):
            while (code := process.poll()) is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(1.0, self.limit))
                if process.poll() is None and self._seconds_of_case() > self.limit:
                    process.kill()
                    return f"took more than {self.limit:g} s (--time-limit)"
        return f"process died, {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"

    def _seconds_of_case(self) -> float:
        """Return for how long the present case is tried; where none is, for how long the step runs."""
        files = [file for name in (JOB, NOW) if (file := self.folder / name).is_file()]
        return time.time() - max(file.stat().st_mtime for file in files)

    def _died(self, ended: str, step: str) -> Exception:
        now = self.folder / NOW
        if now.is_file() and self.name == "NEW":
            return Died(f"its {ended}, on the case\n{now.read_text()}")
        if now.is_file():
            return CannotRun(f"{self.name} cannot be compared: its {ended}")
        lines = (self.folder / SAID).read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else ended
        return CannotRun(f"{self.name} cannot be compared: {self.python} -m {SIDE} {step}: {said}")


def compare(options: argparse.Namespace) -> Comparison:
    """Compare the two targets of the options. Raises CannotRun if they cannot be compared."""
    require_known([options.old, options.new], options.device, options.dtype)
    with tempfile.TemporaryDirectory(prefix="dmat-") as place:
        old, new = (
            _side(*each, Path(place))
            for each in (
                ("OLD", options.old, _python(options.old_python), options.time_limit),
                ("NEW", options.new, sys.executable, options.time_limit),
            )
        )
        comparison = _comparison(old, new, _job(options))
    progress("")
    return comparison


def _job(options: argparse.Namespace) -> Job:
    number = EXAMPLES if config_index() is None else INTERPRETED
    return Job("", options.device, options.dtype, options.examples or number)


def _python(path: str | None) -> str:
    """Return the Python of OLD. Raises CannotRun if there is none."""
    found = shutil.which(path) if path is not None else sys.executable
    if found is None:
        raise CannotRun(f"--old-python is {path!r}; there is no such program")
    return os.path.abspath(found)  # not resolved: a venv's Python is a link


def _side(name: str, target: str, python: str, limit: float, place: Path) -> Running:
    folder = place / name
    folder.mkdir()
    return Running(name, target, python, folder, limit)


def _comparison(old: Running, new: Running, job: Job) -> Comparison:
    """Let NEW make the cases, try them on OLD, then try on NEW those that OLD's contract allows."""
    started = time.perf_counter()
    progress("making the cases of NEW")
    made = new.do("cases", replace(job, target=new.target))
    for site in made.sites:
        shutil.copy(new.folder / cases_of(site.dtype, site.device), old.folder)
    progress("trying OLD")
    theirs = _results(old, job, [site for site in made.sites if not site.reason])
    _require_alike(theirs, made)
    both = [site for site in theirs.sites if site.tried]
    for site in both:
        _keep_tried(new.folder / cases_of(site.dtype, site.device), site)
    progress("trying NEW")
    try:
        ours, died = _results(new, job, both).sites, ""
    except Died as death:
        ours, died = [], str(death)
    sites = [_site(site, theirs.sites, ours, died, (old.folder, new.folder)) for site in made.sites]
    return Comparison(
        verdict=verdict(sites),
        old=Side(old.target, theirs.contract, old.python, theirs.versions),
        new=Side(new.target, made.contract, new.python, made.versions),
        sites=sites,
        seconds=round(time.perf_counter() - started, 3),
        interpreter=interpreter_record(),
    )


def _results(side: Running, job: Job, sites: Sequence[Site]) -> Answer:
    """Let a side try the cases of these dtypes and devices. Raises CannotRun where there are none."""
    if not sites:
        raise CannotRun(f"{side.name} cannot be compared: no dtype and device has a case to try it on")
    where = [(site.dtype, site.device) for site in sites]
    return side.do("results", replace(job, target=side.target, sites=where))


def _require_alike(theirs: Answer, made: Answer) -> None:
    """Raise CannotRun if OLD and NEW have two kinds or two versions of dmat, or share no case."""
    for what, old, new in (
        ("kinds", theirs.kind or made.kind, made.kind),
        ("versions of dmat", theirs.versions["dmat"], made.versions["dmat"]),
    ):
        if old != new:
            raise CannotRun(f"OLD and NEW cannot be compared: they have two {what}, {old} and {new}")
    if not any(site.tried for site in theirs.sites):
        reasons = [site.reason for site in theirs.sites if site.reason]
        alone = "no case is allowed by both contracts" if theirs.sites else "no dtype and device is of both"
        why = f"OLD {reasons[0]}" if reasons else alone
        raise CannotRun(f"OLD and NEW cannot be compared: {why}")


def _keep_tried(file: Path, site: Site) -> None:
    """Empty the lines of all cases that OLD's contract does not allow."""
    kept = {tried.number for tried in site.tried}
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line if number in kept else "" for number, line in enumerate(lines)))


def _site(
    made: Site, theirs: Sequence[Site], ours: Sequence[Site], died: str, folders: tuple[Path, Path]
) -> Compared:
    """Return what became of a dtype and device of NEW."""
    where = made.dtype, made.device
    old, new = (next((s for s in sites if (s.dtype, s.device) == where), None) for sites in (theirs, ours))
    if made.reason:
        return Compared(*where, reason=f"NEW {made.reason}")
    if old is None:
        return Compared(*where, reason=UNPROMISED)
    if not old.tried:
        return Compared(*where, reason=f"OLD {old.reason}" if old.reason else "no case is allowed by both")
    if new is None:
        return Compared(*where, worse=f"NEW: {died}")
    first, second = (np.load(arrays_of(folder, *where)) for folder in folders)
    with first, second:
        return compared(old, new, (first, second), made.written)


def verdict(sites: Sequence[Compared]) -> Verdict:
    """Return the verdict: a dtype that OLD does not promise takes nothing from it."""
    if any(site.worse or any(one.worse for one in site.quantities) for site in sites):
        return "worse"
    could_not = any(site.reason and site.reason != UNPROMISED for site in sites)
    return "error" if could_not else "not worse"


def command(options: argparse.Namespace) -> int:
    """Compare, print the table, and return the exit code."""
    comparison = compare(options)
    console = Console(emoji=False)
    show(comparison, console)
    if comparison.interpreter is not None:
        plain(console, caveat(comparison.interpreter))
    if options.json is not None:
        written(text_of(comparison, indent=2), options.json)
    return EXITS[comparison.verdict]

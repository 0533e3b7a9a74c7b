"""The command `dmat fuzz`: submit turns to the processes and log their results until the time is over.

This process loads neither torch nor a target, because it must survive until the end of the run.
"""

from __future__ import annotations

import argparse
import datetime
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from dmat.testing.causes.known import Cell, words_of
from dmat.testing.contract.names import require_known
from dmat.testing.counterexample.replay import FILE
from dmat.testing.errors import CannotRun, RunError
from dmat.testing.fuzzing.gpus import processes, visible
from dmat.testing.fuzzing.log import Ended, Happened, Log, Noted, Request
from dmat.testing.fuzzing.messages import AHEAD, COUNTEREXAMPLES, Done, Found, Layout, Setup, Turn
from dmat.testing.fuzzing.pool import Gone, Pool
from dmat.testing.fuzzing.progress import Progress
from dmat.testing.fuzzing.report.entries import FindingEntry, FuzzReport
from dmat.testing.fuzzing.report.result import EXITS, result, with_causes_of_findings
from dmat.testing.fuzzing.schedule import Schedule
from dmat.testing.fuzzing.tally import Sum
from dmat.testing.interpret.choice import caveat
from dmat.testing.interpret.choice import config_index as config

DEFAULT_MINUTES = 10.0
GRACE = 5.0  # seconds that turns have to end after the time is over
SHORTEST_LEFT = 0.02  # seconds; no turn starts with less time left
PULSE = 0.25  # seconds between two checks of the clock
IMPORTS = 300.0  # time limit in seconds for loading the targets
SETTLING = 120.0  # time limit in seconds for retrying one failure, waiting included


def fuzz(options: argparse.Namespace) -> int:
    """Run the fuzzer. Return the exit code: 0 nothing found, 1 failures found, 2 it did not really fuzz."""
    began = time.monotonic()
    require_known(options.targets, options.device, options.dtype)
    log = Log(options.out)
    try:
        request, sitting, before = _asked(options, log)
        with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="dmat-fuzz-") as journals:
            run = Run(options, request, log, sitting, Path(journals), began - before)
            try:
                report = run.to_the_end()
            finally:
                run.hands.stop()
    finally:
        log.close()
    for number, cause in enumerate(report.causes, 1):
        print(*words_of(number, cause), sep="\n")
    print(_last_line(report, options.out))
    if report.interpreter is not None:
        print(caveat(report.interpreter))
    return EXITS[report.verdict]


def _asked(options: argparse.Namespace, log: Log) -> tuple[Request, int, float]:
    """Return the options of the run, the number of this sitting, and the seconds already spent.

    Raises RunError if the folder holds a run and --resume is missing, if --resume finds no run, if the run in
    the folder has other options, or if its time is over.
    """
    lines = list(log.lines())
    earlier = [line for line in lines if isinstance(line, Request)]
    where = f"--out is {str(options.out)!r}"
    if earlier and not options.resume:
        raise RunError(f"{where}; there is a run in it: --resume goes on with it")
    if options.resume and not earlier:
        raise RunError(f"{where}; there is no run in it to resume")
    before = max((line.elapsed for line in lines if not isinstance(line, Request)), default=0.0)
    first = earlier[0] if earlier else _new(options)
    request = msgspec.structs.replace(
        first, seconds=first.seconds if options.minutes is None else 60 * options.minutes
    )
    wanted = tuple(options.targets), tuple(options.device), tuple(options.dtype)
    known = first.targets, first.devices, first.dtypes
    if any(new and new != old for new, old in zip(wanted, known, strict=True)):
        raise RunError(
            f"{where}; the run in it is of {' '.join(first.targets) or 'what is built in'}: {first.command}"
        )
    if first.config != config():
        how = "without --interpret" if first.config is None else f"with --interpret --config {first.config}"
        raise RunError(f"{where}; the run in it goes on {how}: {first.command}")
    if request.seconds <= before:
        raise RunError(f"{where}; its {request.seconds / 60:g} minutes are over: --minutes more than that")
    return request, len(earlier) + 1, before


def _new(options: argparse.Namespace) -> Request:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Request(
        tuple(options.targets),
        tuple(options.device),
        tuple(options.dtype),
        60 * (options.minutes or DEFAULT_MINUTES),
        secrets.randbits(63),
        started,
        shlex.join(["dmat", *sys.argv[1:]]),
        config(),
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that a cancelled job still writes its report."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Run:
    """One sitting of a run."""

    def __init__(
        self,
        options: argparse.Namespace,
        request: Request,
        log: Log,
        sitting: int,
        journals: Path,
        zero: float,
    ) -> None:
        """Start the processes. zero: time.monotonic() at the start, less the seconds of earlier sittings."""
        self.request, self.log, self.sitting, self.zero = request, log, sitting, zero
        self.folder = options.out.resolve()
        gpus = visible() if set(request.devices) <= {"cuda"} else ()
        self.processes, sharing = processes(options.n, gpus)
        self.end = time.time() + request.seconds - self.elapsed
        self.named = tuple(options.corpus)
        self.shared = (options.shared or options.out).resolve()
        corpora = tuple(str(Path(folder).resolve()) for folder in self.named or ("corpus",))
        folders = str(self.folder), str(Path.cwd()), str(self.shared), str(journals)
        setup = Setup(*folders, options.time_limit, corpora, gpus, sharing, self.end)
        self.hands = Pool(setup, self.processes) if options.ray is None else self._cluster(setup, options.ray)
        self.turns: dict[str, Turn] = {}

    def _cluster(self, setup: Setup, address: str) -> Any:
        """Join a Ray cluster. Ray assigns the GPUs on each node."""
        try:
            from dmat.testing.fuzzing.cluster import Cluster
        except ImportError:
            raise CannotRun("--ray needs Ray: pip install 'dmat[cluster]'") from None
        setup = msgspec.structs.replace(setup, devices=())
        cluster = Cluster(setup, address, gpus=any(device != "cpu" for device in self.request.devices))
        self.processes = cluster.places
        return cluster

    @property
    def elapsed(self) -> float:
        """Seconds of fuzzing, all sittings together."""
        return time.monotonic() - self.zero

    def to_the_end(self) -> FuzzReport:
        """Run turns until the time is over or Ctrl-C. Write the report and return it."""
        from dmat.testing.fuzzing.report.files import write

        layout = self._laid_out()
        self.total = Sum(layout.cells)
        self._remember()
        self.log.write(self.request)  # only after the targets have loaded
        self.schedule = Schedule(self.total, self.request.seed, self.sitting)
        with Progress(self.total, self.request.seconds) as progress, suppress(KeyboardInterrupt):
            self._settle_what_was_left()
            while (left := self.end - time.time()) > SHORTEST_LEFT and self._hand_out(left):
                self.hands.patience = min(SETTLING, left + GRACE)
                self._hear(min(PULSE, left))
                self.total.elapsed = self.elapsed
                progress.show()
            while self.turns and (left := self.end + GRACE - time.time()) > 0:
                self.hands.patience = left
                self._hear(min(PULSE, left))
        self.total.elapsed = self.elapsed
        counts = {"sittings": self.sitting, "processes": self.processes}
        report = result(self.total, self.request, layout, self.folder, self.shared, **counts)
        report = with_causes_of_findings(report)
        write(report, self.folder)
        return report

    def _laid_out(self) -> Layout:
        request = self.request
        try:
            layout: Layout = self.hands.call(
                "lay_out", request.targets, request.devices, request.dtypes, self.named, seconds=IMPORTS
            )
        except Gone as death:
            raise CannotRun(f"the process died while the targets were imported: {death}") from None
        return layout

    def _remember(self) -> None:
        """Add up the results of the earlier sittings from the log."""
        for line in self.log.lines():
            if isinstance(line, Request):
                continue
            self.total.elapsed = line.elapsed
            match line:
                case Ended(_, done) if done.cell in self.total.tallies:
                    self.total.add(done)
                case Noted(_, found) if found.cell in self.total.tallies:
                    self.total.note(found)
                case Happened(_, what):
                    self.total.happened(what)

    def _settle_what_was_left(self) -> None:
        """Retry failures that an earlier sitting found, but did not shrink before it was killed."""
        for folder in sorted((self.folder / AHEAD).glob("*")):
            with suppress(Gone, OSError, msgspec.MsgspecError):
                cell = msgspec.json.decode((folder / FILE).read_bytes(), type=Cell)
                if cell in self.total.tallies:
                    turn = Turn(folder.name, cell, 0, 0.0, causes=self.total.causes(cell.implementation))
                    found = self.hands.call("settle", str(folder), turn, seconds=SETTLING)
                    if found is not None:
                        self._note(found)
            shutil.rmtree(folder, ignore_errors=True)

    # Turns

    def _hand_out(self, left: float) -> bool:
        """Submit turns until all processes have some. Return False if no cell can be tried, now or later."""
        while self.hands.under_way < self.hands.room:
            turns = self.schedule.stint(min(self.hands.stint, left), left)
            if not turns:
                return bool(self.turns)
            self.turns.update({turn.name: turn for turn in turns})
            self.hands.submit(turns)
        return True

    def _hear(self, seconds: float) -> None:
        """Process the results of finished turns."""
        for done in self.hands.ended(seconds):
            self.total.elapsed = self.elapsed
            self._take_in(done)

    def _take_in(self, done: Done) -> None:
        turn = self.turns.pop(done.name)
        for found in done.found:
            self._note(self._unless_known(found, turn))
        if done.event:
            self._happened(done.event)
        if done.at_a_loss:
            self._happened(f"{done.cell.law} of {done.cell.implementation}: {done.trouble}")
        done = msgspec.structs.replace(done, found=())
        self.log.write(Ended(self.total.elapsed, done))
        self.total.add(done)
        self.schedule.ended(done.cell, done.seconds)
        shutil.rmtree(self.folder / AHEAD / done.name, ignore_errors=True)

    def _happened(self, what: str) -> None:
        self.log.write(Happened(self.total.elapsed, what))
        self.total.happened(what)

    def _note(self, found: Found) -> None:
        found = msgspec.structs.replace(found, files={})
        self.log.write(Noted(self.total.elapsed, found))
        self.total.note(found)

    def _unless_known(self, found: Found, turn: Turn) -> Found:
        """Return the failure, with its cause if a cause found since its turn began explains it.

        The folder of an explained failure is deleted.
        """
        newer = self.total.causes(found.cell.implementation)[len(turn.causes) :]
        if found.cause is not None or not newer:
            return found
        try:
            number = self.hands.call("compare", found, newer)
        except Gone:
            return found
        if number is None:
            return found
        kept = {finding.found.folder for finding in self.total.findings}
        if found.folder is not None and found.folder not in kept:
            shutil.rmtree(self.shared / COUNTEREXAMPLES / found.folder, ignore_errors=True)
        return msgspec.structs.replace(found, cause=number, folder=None)


def _last_line(report: FuzzReport, folder: Path) -> str:
    """Return the verdict as the last lines of the terminal output."""
    tried = f"{report.examples:,} examples in {report.seconds:.0f} s"
    what = {
        "found": f"FOUND {len(report.findings)}: " + "; ".join(_short(f) for f in report.findings[:5]),
        "nothing found": "NOTHING FOUND",
        "did not fuzz": f"DID NOT FUZZ: {report.reason}",
    }[report.verdict]
    if report.verdict == "did not fuzz" and not report.examples:
        return f"{what}; report: {folder / 'report.html'}"
    return f"{what}\n{tried}; report: {folder / 'report.html'}"


def _short(finding: FindingEntry) -> str:
    return f"{finding.law} of {finding.implementation}, {finding.dtype} on {finding.device}"

"""Journals: each case is written down before the kernel gets it, so that it outlives a process that dies.

Each process has one file with one line. Cases that can be made again, those of a ladder and of a block of
random cases, are told by a number, which is overwritten in place before every example; for other cases the
line is written again. The limit ends an
example in one of two ways. SIGALRM raises DidNotEnd if the process still runs Python. Otherwise, a watchdog
thread of faulthandler ends the process.
"""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Literal

import msgspec

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import Parts, parts_of
from dmat.testing.errors import DidNotEnd
from dmat.testing.processes import claim
from dmat.testing.record import Ended

SECONDS = 60.0  # default limit of one example, compilation included


PATIENCE = 10.0  # limit in seconds for an implementation that has once exceeded its limit


EXPENSIVE = 5  # factor on the limit, for the smoke call and for laws with expensive examples (compilations)


NO_RETURN = 1.5  # the watchdog waits at least this factor times the limit before it ends the process


NUMBER = ".number"  # suffix of the file that holds the number of the case


NO_NUMBER = -1  # the case is in the line


LADDER = "ladder"


_INTEGER = struct.Struct("<q")


STOPPED = ".stopped"  # suffix of the file that the watchdog writes to before it ends its process


SLOW = "slow, rather than stuck? --time-limit gives an example more (pytest: --dmat-time-limit)"


class JournalLine(msgspec.Struct):
    """One line of a journal: a test, the case that it is trying, and the examples counted so far.

    node: the test's id. limit: seconds for this example. expensive: the law has expensive examples.
    plainest: this is the smoke call. case: the case, if it was written down. block: LADDER, or the seed of a
    block of random cases in hexadecimal; number: which case of it. ended: how the example ended, "" until
    that is known, "held" once the test is over. message, folder: the report and the counterexample folder,
    should the process not live to report. stopped: the watchdog ended the process.
    """

    node: str
    law: str
    implementation: str
    dtype: str
    device: str
    part: str
    limit: float
    expensive: bool = False
    case: Parts | None = None
    block: str = ""
    number: int = NO_NUMBER
    plainest: bool = False
    examples: int = 0
    ended: Ended | Literal["", "held"] = ""
    message: str = ""
    folder: str = ""
    stopped: bool = False

    @property
    def process_outcome(self) -> Ended:
        """The outcome of an example whose process is gone: the watchdog ended the process, or it died."""
        return "did not end" if self.stopped else "died"

    @property
    def outcome(self) -> Ended:
        """The known outcome of the example; that of a dead process if the journal holds none."""
        return self.process_outcome if self.ended == "" or self.ended == "held" else self.ended


class Journal:
    """The journal of this process, in a folder that all processes of a run share.

    limit: seconds for one example; 0 for no limit. deadly: whether the watchdog may end this process.
    """

    def __init__(self, folder: Path, limit: float, *, deadly: bool = True) -> None:
        """Open this process' journal file and its watchdog's file in the folder."""
        self.folder, self.limit, self.deadly = folder, limit, deadly
        self.line: JournalLine | None = None
        self._file = os.open(folder / f"{os.getpid()}.json", os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        numbers = folder / f"{os.getpid()}{NUMBER}"
        numbers.write_bytes(_INTEGER.pack(NO_NUMBER))
        with numbers.open("r+b") as file:
            self._number = mmap.mmap(file.fileno(), _INTEGER.size)  # the file keeps it when the process dies
        stopped = folder / f"{os.getpid()}{STOPPED}"
        self._watchdog = os.open(stopped, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._watched = 0.0

    def close(self) -> None:
        """Close the files. A process that lives on calls this."""
        self._number.close()
        os.close(self._file)
        os.close(self._watchdog)

    @contextmanager
    def of(self, line: JournalLine) -> Iterator[None]:
        """Hold this entry while a law is tried. Mark it as "held" afterwards."""
        self.line = line
        try:
            yield
        finally:
            self._write(msgspec.structs.replace(line, case=None, ended="held"))
            self.line = None
            self.pause_watchdog()

    def pause_watchdog(self) -> None:
        """Pause the watchdog until the next example, for work outside the kernel, such as a picture."""
        if self._watched:
            faulthandler.cancel_dump_traceback_later()
            self._watched = 0.0

    @contextmanager
    def trying(self, case: Case, *, plainest: bool = False) -> Iterator[None]:
        """Write the case down, then run the body under the time limit. Raises DidNotEnd."""
        line = self.line
        if line is None:
            yield
            return
        line.case, line.block, line.plainest = parts_of(case), "", plainest
        line.examples += not plainest
        line.limit = self.limit_for(line.implementation, expensive=line.expensive or plainest)
        self._write(line)
        with self._alarm(line):
            yield

    def begin(self, block: str) -> None:
        """Begin a block of cases that are told by their number. block: LADDER, or the seed in hexadecimal."""
        line = self.line
        if line is not None:
            line.case, line.block, line.plainest = None, block, False
            line.limit = self.limit_for(line.implementation, expensive=line.expensive)
            self._write(line)

    @contextmanager
    def trying_number(self, number: int) -> Iterator[None]:
        """Write down the number of a block's case, then run the body under the limit. Raises DidNotEnd."""
        line = self.line
        if line is None:
            yield
            return
        _INTEGER.pack_into(self._number, 0, number)
        line.examples += 1
        with self._alarm(line):
            yield

    def ended(self, how: Ended, message: str, folder: str) -> None:
        """Write down the example's outcome, message and folder, should the process not live to report."""
        if self.line is not None:
            self.line.ended, self.line.message, self.line.folder = how, message, folder
            self._write(self.line)

    def device_failed(self, why: str) -> None:
        """Write down that the example broke its device, which ends this process. The case's number stays."""
        if self.line is not None:
            self.line.ended, self.line.message = "died", why
            os.pwrite(self._file, msgspec.json.encode(self.line) + b"\n", 0)

    def _write(self, line: JournalLine) -> None:
        os.pwrite(self._file, msgspec.json.encode(line) + b"\n", 0)
        _INTEGER.pack_into(self._number, 0, NO_NUMBER)

    @contextmanager
    def _alarm(self, line: JournalLine) -> Iterator[None]:
        limit = line.limit
        if limit <= 0 or not _alarm_is_free():
            yield
            return
        if self.deadly:
            self._watch(limit)
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            yield
        except DidNotEnd:
            note_outcome(self.folder, line, "did not end")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self, limit: float) -> None:
        """Arm the watchdog: it ends the process some time after the limit, even inside a kernel.

        It is armed again only once a quarter of the limit has passed.
        """
        now = time.monotonic()
        if now - self._watched > limit / 4:
            faulthandler.dump_traceback_later((NO_RETURN + 0.25) * limit, exit=True, file=self._watchdog)
            self._watched = now

    def limit_for(self, implementation: str, *, expensive: bool = False) -> float:
        """Return an example's limit in seconds. expensive: examples of the law are expensive."""
        if expensive:
            return EXPENSIVE * self.limit
        hung = _mark(self.folder, "hung", implementation).exists()
        return min(self.limit, PATIENCE) if hung and self.limit > 0 else self.limit

    @property
    def smoke_call_outcome(self) -> Ended | None:
        """The outcome of the smoke call at this implementation, dtype and device, if it ended a process."""
        mark = _plainest_mark(self.folder, self.line) if self.line is not None else None
        if mark is None or not mark.exists():
            return None
        return "did not end" if mark.read_text() == "did not end" else "died"

    def uncallable(self) -> str:
        """Return why the smoke call of this implementation, dtype and device raised in any process, or ""."""
        mark = self._uncallable_mark()
        return mark.read_text() if mark is not None and mark.exists() else ""

    def note_uncallable(self, reason: str) -> None:
        """Tell all processes why the smoke call raised: no process makes it again."""
        mark = self._uncallable_mark()
        if mark is not None and not mark.exists():
            beside = mark.with_name(f"{mark.name}-{os.getpid()}")
            beside.write_text(reason)
            beside.replace(mark)

    def _uncallable_mark(self) -> Path | None:
        if self.line is None:
            return None
        site = f"{self.line.implementation} {self.line.dtype} {self.line.device}"
        return _mark(self.folder, "uncallable", site)

    def first_to_report(self, implementation: str) -> bool:
        """Return whether this process is the first to report that the implementation cannot be called."""
        return claim(_mark(self.folder, "reported", implementation))


def note_outcome(folder: Path, line: JournalLine, outcome: str) -> None:
    """Tell all processes that an example did not end, and how the smoke call ended."""
    if outcome == "did not end":
        _mark(folder, "hung", line.implementation).touch()
    if line.plainest:
        _plainest_mark(folder, line).write_text(outcome)


def _plainest_mark(folder: Path, line: JournalLine) -> Path:
    return _mark(folder, "plainest", f"{line.implementation} {line.dtype} {line.device}")


def _mark(folder: Path, kind: str, name: str) -> Path:
    return folder / f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def left_behind(folder: Path, node: str) -> JournalLine | None:
    """Return the journal entry that a dead process left of this test, or None."""
    for file in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        text = file.read_bytes().split(b"\n")[0]
        try:
            line = msgspec.json.decode(text, type=JournalLine)
        except msgspec.MsgspecError:
            continue
        if line.node == node and line.ended != "held":
            line.stopped = file.with_suffix(STOPPED).stat().st_size > 0
            (line.number,) = _INTEGER.unpack(file.with_suffix(NUMBER).read_bytes())
            line.examples += line.number + 1
            return line
    return None


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise DidNotEnd


def _alarm_is_free() -> bool:
    """Return whether SIGALRM exists, nobody else handles it, and this is the main thread, which gets it."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, _on_alarm)


def first_to_go() -> None:
    """Tell Linux's OOM killer to choose this worker process before the process that reports."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("900")

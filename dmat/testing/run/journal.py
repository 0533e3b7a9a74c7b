"""The case that is being tried, written ahead: a process that dies or hangs leaves it behind.

Each process has a file of its own, one line in it, overwritten before every example: what was written to a
file survives the process. An example that takes longer than the limit is ended by an alarm where Python still
runs, and takes the process along where it does not.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import signal
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
from dmat.testing.record import Ended

SECONDS = 60.0  # an example may take, compilation and all


PATIENCE = 10.0  # of an implementation that has once taken longer than the limit


DEAR = 5  # times the limit, for the first call of all, and for laws whose examples are compilations


NO_RETURN = 1.5  # times the limit, at the least, until a process in which no Python runs is ended


STOPPED = ".stopped"  # a file in which the watchdog of a process writes before it ends that


SLOW = "slow, rather than stuck? --time-limit gives an example more (pytest: --dmat-time-limit)"


class Entry(msgspec.Struct):
    """One line of a journal: the test, what it tries, since when (time.time), and after how many examples.

    ended: how it is known to have ended, "" until then. message: what is to be reported of it. stopped: the
    watchdog ended its process.
    """

    node: str
    law: str
    implementation: str
    dtype: str
    device: str
    part: str
    limit: float
    dear: bool = False
    case: Parts | None = None
    plainest: bool = False
    examples: int = 0
    started: float = 0.0
    ended: Ended | Literal["", "held"] = ""
    message: str = ""
    folder: str = ""
    stopped: bool = False

    @property
    def fate(self) -> Ended:
        """How an example ended of which no more is known than that its process is gone."""
        return "did not end" if self.stopped else "died"

    @property
    def outcome(self) -> Ended:
        """How it ended, as far as is known."""
        return self.fate if self.ended == "" or self.ended == "held" else self.ended


class Journal:
    """The journal of this process, in a folder that all processes of a run share.

    limit: seconds that an example may take; 0 for no limit.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        """Open this process' file in the folder."""
        self.folder, self.limit = folder, limit
        self.entry: Entry | None = None
        self._file = os.open(folder / f"{os.getpid()}.json", os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        stopped = folder / f"{os.getpid()}{STOPPED}"
        self._watchdog = os.open(stopped, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._watched = 0.0

    @contextmanager
    def of(self, entry: Entry) -> Iterator[None]:
        """Keep this entry while a law is tried."""
        self.entry = entry
        try:
            yield
        finally:
            self._write(msgspec.structs.replace(entry, case=None, ended="held"))
            self.entry = None
            self.at_ease()

    def at_ease(self) -> None:
        """Let what is not the kernel's, a picture say, take its time: no watch until the next example."""
        if self._watched:
            faulthandler.cancel_dump_traceback_later()
            self._watched = 0.0

    @contextmanager
    def trying(self, case: Case, *, plainest: bool = False) -> Iterator[None]:
        """Write the case down, then let it be tried for no longer than the limit. Raises DidNotEnd."""
        entry = self.entry
        if entry is None:
            yield
            return
        entry.case, entry.started, entry.plainest = parts_of(case), time.time(), plainest
        entry.examples += not plainest
        entry.limit = self.limit_for(entry.implementation, dear=entry.dear or plainest)
        self._write(entry)
        with self._alarm(entry):
            yield

    def ended(self, how: Ended, message: str, folder: str) -> None:
        """Write down what is to be reported should the process not live to do so."""
        if self.entry is not None:
            self.entry.ended, self.entry.message, self.entry.folder = how, message, folder
            self._write(self.entry)

    def _write(self, entry: Entry) -> None:
        os.pwrite(self._file, msgspec.json.encode(entry) + b"\n", 0)

    @contextmanager
    def _alarm(self, entry: Entry) -> Iterator[None]:
        limit = entry.limit
        if limit <= 0 or not _alarm_is_free():
            yield
            return
        self._watch(limit)
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            yield
        except DidNotEnd:
            note_fate(self.folder, entry, "did not end")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self, limit: float) -> None:
        """Have the process end some time after the limit, even if it never comes back to Python."""
        now = time.monotonic()
        if now - self._watched > limit / 4:
            faulthandler.dump_traceback_later((NO_RETURN + 0.25) * limit, exit=True, file=self._watchdog)
            self._watched = now

    def limit_for(self, implementation: str, *, dear: bool = False) -> float:
        """Return the seconds that an example of this implementation may take."""
        if dear:
            return DEAR * self.limit
        hung = _mark(self.folder, "hung", implementation).exists()
        return min(self.limit, PATIENCE) if hung and self.limit > 0 else self.limit

    @property
    def fate_of_plainest(self) -> Ended | None:
        """How the plainest call of this implementation, dtype and device ended some process, or None."""
        mark = _plainest_mark(self.folder, self.entry) if self.entry is not None else None
        if mark is None or not mark.exists():
            return None
        return "did not end" if mark.read_text() == "did not end" else "died"

    def uncallable(self) -> str:
        """Return why some process could not make the plainest call of this implementation here, or ""."""
        mark = self._uncallable_mark()
        return mark.read_text() if mark is not None and mark.exists() else ""

    def note_uncallable(self, reason: str) -> None:
        """Let all processes know the reason: the call is made no more."""
        mark = self._uncallable_mark()
        if mark is not None and not mark.exists():
            beside = mark.with_name(f"{mark.name}-{os.getpid()}")
            beside.write_text(reason)
            beside.replace(mark)

    def _uncallable_mark(self) -> Path | None:
        if self.entry is None:
            return None
        place = f"{self.entry.implementation} {self.entry.dtype} {self.entry.device}"
        return _mark(self.folder, "uncallable", place)

    def first_to_tell(self) -> bool:
        """Return whether this process is the first to say that the implementation cannot be called."""
        assert self.entry is not None
        try:
            _mark(self.folder, "told", self.entry.implementation).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def note_fate(folder: Path, entry: Entry, fate: str) -> None:
    """Let all processes know that an example did not end, and what became of the plainest call there is."""
    if fate == "did not end":
        _mark(folder, "hung", entry.implementation).touch()
    if entry.plainest:
        _plainest_mark(folder, entry).write_text(fate)


def _plainest_mark(folder: Path, entry: Entry) -> Path:
    return _mark(folder, "plainest", f"{entry.implementation} {entry.dtype} {entry.device}")


def _mark(folder: Path, kind: str, name: str) -> Path:
    return folder / f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def left_behind(folder: Path, node: str) -> Entry | None:
    """Return what a process that is gone was trying in this test, as far as it wrote it down."""
    for file in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        line = file.read_bytes().split(b"\n")[0]
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except msgspec.MsgspecError:
            continue
        if entry.node == node and entry.ended != "held":
            entry.stopped = file.with_suffix(STOPPED).stat().st_size > 0
            return entry
    return None


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise DidNotEnd


def _alarm_is_free() -> bool:
    """Return whether SIGALRM exists, is unused, and would ring in this thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, _on_alarm)


def first_to_go() -> None:
    """Have the system end this process before others when memory runs out: a worker, not who reports."""
    with suppress(OSError):  # not Linux: it chooses as it will
        Path("/proc/self/oom_score_adj").write_text("900")

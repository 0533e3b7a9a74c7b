"""The log of a run, one JSON line per event: how the run was started, and the result of every turn.

The state of a run is computed from its log, so that a killed run can be resumed from disk. An incomplete last
line is ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from dmat.testing.errors import RunError
from dmat.testing.fuzzing.messages import Done, Found
from dmat.testing.processes import lock

FILE = "log.jsonl"


LOCK = "log.lock"


class Request(Struct, frozen=True, tag="asked"):
    """The options with which a sitting of the run was started.

    started: UTC, ISO 8601. seconds: fuzzing time of all sittings together. config: number of the autotune
    config in Triton's interpreter, or None without the interpreter.
    """

    targets: tuple[str, ...]
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    seconds: float
    seed: int
    started: str
    command: str
    config: int | None = None


class Ended(Struct, frozen=True, tag="ended"):
    """A finished turn. elapsed: seconds since the run began. Its failures are in lines of Noted."""

    elapsed: float
    done: Done


class Noted(Struct, frozen=True, tag="noted"):
    """A failure, with the number of its cause, or as a new cause."""

    elapsed: float
    found: Found


class Happened(Struct, frozen=True, tag="happened"):
    """An event of the run, for example that a process died."""

    elapsed: float
    what: str


Line = Request | Ended | Noted | Happened


class Log:
    """The log of a folder, open for appending. Raises RunError if another process has it open."""

    def __init__(self, folder: Path) -> None:
        """Open and lock the log. Remove an incomplete last line."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        taken = lock(folder / LOCK)
        if taken is None:
            raise RunError(f"--out is {str(folder)!r}; a run is going on there")
        self._lock = taken
        self._file = os.open(folder / FILE, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
        text = (folder / FILE).read_bytes()
        os.ftruncate(self._file, text.rfind(b"\n") + 1)

    def write(self, line: Line) -> None:
        """Append a line. After the return it survives a crash of the process."""
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    def lines(self) -> Iterator[Line]:
        """Yield every line. Raises RunError at an invalid line."""
        for number, text in enumerate((self.folder / FILE).read_bytes().splitlines(), 1):
            try:
                yield msgspec.json.decode(text, type=Line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RunError(f"{self.folder / FILE}, line {number}: {error}") from None

    def close(self) -> None:
        """Close and unlock the log."""
        os.close(self._file)
        self._lock.release()

"""The log of a run, a line of JSON an entry: what was asked, and every turn as it ended.

All that a run knows is added up from it, so that a run that was killed is resumed from what is on disk. A
last line that was not written to its end is passed over.
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


class Asked(Struct, frozen=True, tag="asked"):
    """How a sitting of the run was begun.

    started: UTC, ISO 8601. seconds: of fuzzing, all sittings together. config: of Triton's interpreter, where
    kernels run in it.
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
    """A turn, `elapsed` seconds into the run, with the causes of its failures settled."""

    elapsed: float
    done: Done


class Noted(Struct, frozen=True, tag="noted"):
    """A failure, its cause known, or one that is a new cause."""

    elapsed: float
    found: Found


class Happened(Struct, frozen=True, tag="happened"):
    """An event."""

    elapsed: float
    what: str


Line = Asked | Ended | Noted | Happened


class Log:
    """The log of a folder, open to be added to. RunError where another process has it open."""

    def __init__(self, folder: Path) -> None:
        """Open it, and cut off what was not written to its end."""
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
        """Add an entry; once this returns it survives the process."""
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    def lines(self) -> Iterator[Line]:
        """Yield every entry. RunError where one is none."""
        for number, text in enumerate((self.folder / FILE).read_bytes().splitlines(), 1):
            try:
                yield msgspec.json.decode(text, type=Line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RunError(f"{self.folder / FILE}, line {number}: {error}") from None

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)
        self._lock.release()

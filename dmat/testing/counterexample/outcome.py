"""The target and the outcome of a replay. Loads no torch: the parent process of a replay uses it, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BROKEN, FIXED, COULD_NOT = "STILL BROKEN", "FIXED", "COULD NOT RUN"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one replayed case: its status, and the reason in one or more lines."""

    path: Path
    status: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """The TARGET, device and dtype to replay cases on. None: take it from the case.

    deadly: whether a case that ended its process is tried.
    """

    target: str | None = None
    device: str | None = None
    dtype: str | None = None
    deadly: bool = True

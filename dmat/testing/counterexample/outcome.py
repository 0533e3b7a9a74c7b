"""The target and the outcome of a replay. Loads no torch: the waiting process reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BROKEN, FIXED, COULD_NOT = "STILL BROKEN", "FIXED", "COULD NOT RUN"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one replayed case, and the reason in a few lines."""

    path: Path
    status: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """The TARGET, device and dtype to replay cases on. None: take what the case says."""

    target: str | None = None
    device: str | None = None
    dtype: str | None = None

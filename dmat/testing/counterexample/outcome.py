"""What a counterexample is tried again on, and what becomes of it. No torch: two processes speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BROKEN, FIXED, COULD_NOT = "STILL BROKEN", "FIXED", "COULD NOT RUN"


@dataclass(frozen=True)
class Outcome:
    """What became of a case, and why, in some lines."""

    path: Path
    status: str
    text: str


@dataclass(frozen=True)
class Wanted:
    """What the cases are tried on: a TARGET, a device, a dtype; None for what the case says."""

    target: str | None = None
    device: str | None = None
    dtype: str | None = None

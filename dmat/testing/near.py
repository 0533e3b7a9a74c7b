"""A path as it is shown to who started the command."""

from __future__ import annotations

from pathlib import Path


def near(path: Path) -> Path:
    """Return the path as seen from here, where that is shorter."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path

"""Why a command could not do what it was asked: the errors that end it in one line, and exit 2."""

from __future__ import annotations

UNCALLABLE = "cannot be called: "  # begins the reason of a target whose plainest call fails


class CannotRun(Exception):
    """Nothing could be checked, graded or replayed; its text is one line."""

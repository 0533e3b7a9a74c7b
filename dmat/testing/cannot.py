"""Why a command could not do what it was asked: the errors that end it in one line, and exit 2."""

from __future__ import annotations


class CannotRun(Exception):
    """Nothing could be checked, graded or replayed; its text is one line."""

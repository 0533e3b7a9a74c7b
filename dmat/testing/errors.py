"""The errors of dmat: what cannot be run, read or selected, and what did not end."""

from __future__ import annotations

UNCALLABLE = "cannot be called: "  # begins the reason of a target whose plainest call fails


class CannotRun(Exception):
    """Nothing could be checked, graded or replayed; its text is one line."""


class Died(Exception):
    """The process ended before it had a result."""


class OutOfTime(Exception):
    """The process had no result in time, and was ended."""


class NotEnded(Exception):
    """The call did not end in a child process."""


class CaseError(Exception):
    """A case file that is none, or one that asks for what no case may; its text is one line."""


class CorpusError(CannotRun):
    """A corpus that cannot be used as it stands; its text is one line."""


class DidNotEnd(BaseException):
    """An example took longer than the limit: no Exception, for else the law would catch it."""


class RunError(CannotRun):
    """A folder in which this run cannot go on, or begin; its text is one line."""


class NoFuzzing(CannotRun):
    """A fuzzing run cannot start, or would try nothing new. Its text is one line."""


class SelectionError(CannotRun):
    """A choice that leaves nothing to check; its text is one line."""


class TargetError(CannotRun):
    """A TARGET that names nothing that can be checked; its text is one line."""


class Refused(Exception):
    """The implementation refuses, with an error, what it need not do; its text says what and how."""

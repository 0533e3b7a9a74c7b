"""The exceptions of dmat. They stand in the lowest layer, so that every module can import them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNCALLABLE = "cannot be called: "  # prefix of the reason when the smoke call of a target fails


class CannotRun(Exception):
    """The command could not check, grade, replay or fuzz anything. The message is one line."""


class Died(Exception):
    """The child process ended before it returned a result."""


class OutOfTime(Exception):
    """The child process exceeded its time limit and was ended."""


class NotEnded(Exception):
    """The call in a forked child process did not end in time."""


class CaseError(Exception):
    """The case file is invalid, or it asks for more than a case may ask for. The message is one line."""


class CorpusError(CannotRun):
    """The corpus cannot be used as it stands. The message is one line."""


class DidNotEnd(BaseException):
    """An example exceeded the time limit. A BaseException, because a law would catch an Exception."""


class RunError(CannotRun):
    """The fuzzing run cannot start or resume in its folder. The message is one line."""


class NoFuzzing(CannotRun):
    """The fuzzing run would try no new cases, or has no memory for its processes. The message is one line."""


class SelectionError(CannotRun):
    """The selected dtypes and devices leave nothing to check. The message is one line."""


class TargetError(CannotRun):
    """TARGET names nothing that can be checked. The message is one line."""


class NotCovered(NotImplementedError):
    """The assertion has no bound for what it was given, or none at this size. The message is one line."""


class Refused(Exception):
    """The implementation raised an error where it may refuse. The message says which call and which error."""


class SizesRefused(Refused):
    """The implementation raised for sizes that its contract does not state.

    sizes: (K, V), 0 for any. instead: the cases with smaller sizes for which it did not raise.
    """

    def __init__(self, sizes: tuple[int, int], why: str, instead: Sequence[dict[str, Any]] = ()) -> None:
        """Keep the sizes and the cases. why: the error."""
        shown = " and ".join(f"{name}={size}" for name, size in zip("KV", sizes, strict=True) if size)
        super().__init__(f"{shown} {why}")
        self.sizes, self.instead = sizes, instead

"""The arguments of `dmat.check`, `grade`, `replay` and `laws`: each wrong one is named, with its value."""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path


def require_count(name: str, value: object) -> None:
    """Raise ValueError unless the value is a positive integer, or None."""
    if value is not None and (not _is_integer(value) or value < 1):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; expected a positive integer")


def require_seconds(name: str, value: object) -> None:
    """Raise ValueError unless the value is a positive, finite number, or None."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < float("inf")):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; expected a positive number")


def require_seed(name: str, value: object) -> None:
    """Raise ValueError unless the value is an integer of 0 or more, or None."""
    if value is not None and (not _is_integer(value) or value < 0):  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}; expected an integer of 0 or more")


def require_flags(**flags: object) -> None:
    """Raise ValueError unless each value is True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; expected True or False")


def path_of(name: str, value: object, expected: str) -> Path:
    """Return the value as a path. Raises TypeError, with what was expected, for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {value!r}; expected {expected}")
    return Path(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

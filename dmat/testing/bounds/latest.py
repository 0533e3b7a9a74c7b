"""A method of one argument that keeps its latest result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Own = TypeVar("Own")
Given = TypeVar("Given")
Result = TypeVar("Result")


def latest(method: Callable[[Own, Given], Result]) -> Callable[[Own, Given], Result]:
    """Make a method that returns its latest result again if it is called again with the same object."""
    name = f"_latest of {method.__name__}"

    @functools.wraps(method)
    def once(own: Own, given: Given) -> Result:
        kept: Any = own.__dict__.get(name)
        if kept is None or kept[0] is not given:
            own.__dict__[name] = kept = given, method(own, given)
        result: Result = kept[1]
        return result

    return once

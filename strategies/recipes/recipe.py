"""The base class of recipes. Its repr is the shortest Python that builds an equal recipe."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

Case = dict[str, Any]  # the arguments of a law by name: recipes and numbers


def shown(case: Case) -> str:
    """Return the case as Python to paste, one assignment on each line."""
    return "\n".join(f"{name} = {value!r}" for name, value in case.items())


class Recipe:
    """A frozen dataclass whose repr leaves out fields that equal their defaults."""

    def __repr__(self) -> str:
        """Return Python that evaluates to an equal recipe, given the names of dmat.strategies."""
        parts = []
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value: Any = getattr(self, field.name)
            if field.default is MISSING:
                parts.append(repr(value))
            elif repr(value) != repr(field.default):  # by repr: 0.0 and -0.0 differ, nan is nan
                parts.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

"""A row of a contract, and the base class with which both kinds of contract use their rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, TypeVar

from dmat.testing.contract.checks import Check

NOT_STATED = "contract: {name} not stated"  # why a law is not run

T = TypeVar("T")
UNSET = object()
Relaxations = tuple[Any, ...] | Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Row:
    """One promise.

    default: the strictest value. check: returns the value in its canonical form, or raises ValueError.
    help: one line for help(). relaxations: the values that may be promised, strictest first; where each
    member of a value can be given up by itself, one such tuple a member. off: the value with which laws
    that need the field are not run; unset: every value but the default. reason: what is shown then.
    """

    default: Any
    check: Check
    help: str
    relaxations: Relaxations = ()
    off: Any = UNSET
    reason: str = "contract: {name}={value!r}"


def row(default: T, check: Check, help: str, **more: Any) -> T:
    """Return the dataclass field of a row. more: the other fields of Row."""
    return field(default=default, metadata={"row": Row(default, check, help, **more)})


def rows(kind: type[BaseContract]) -> dict[str, Row]:
    """Return the rows of a contract class by field name, in the order of reports."""
    return {f.name: f.metadata["row"] for f in fields(kind)}  # type: ignore[arg-type]  # each is a dataclass


def relaxations(kind: type[BaseContract], name: str) -> tuple[Any, ...]:
    """Return the values that a field may promise, strictest first."""
    return tuple(rows(kind)[name].relaxations)


class BaseContract:
    """What both kinds of contract do with their rows.

    kind: of the kernel. of_gradients: the field that says whether the kernel has gradients.
    """

    kind: ClassVar[str]
    of_gradients: ClassVar[str]

    @property
    def erases(self) -> bool:
        """Whether it is a delta rule: a token erases what the state holds for its key."""
        return False

    def __post_init__(self) -> None:
        """Check every field and set it to its canonical form. Then check fields that depend on each other."""
        for name, each in rows(type(self)).items():
            self._set(name, each.check(getattr(self, name), name))
        self._require_consistent()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _require_consistent(self) -> None:
        """Raise ValueError for fields that exclude each other."""

    def why_not(self, name: str, wanted: str | None = None) -> str | None:
        """Return why a law that needs this field is not run, or None. wanted: the member it needs."""
        own, value = rows(type(self))[name], getattr(self, name)
        if wanted is not None:
            lacking = wanted not in value
        else:
            lacking = value != own.default if own.off is UNSET else value == own.off
        return own.reason.format(name=name, value=value, wanted=wanted) if lacking else None

    @property
    def has_gradients(self) -> bool:
        """Whether the kernel has gradients."""
        return self.why_not(self.of_gradients) is None

    def without_gradients(self) -> Self:
        """Return the contract of the same kernel without gradients."""
        off = rows(type(self))[self.of_gradients].off
        return replace(self, **{self.of_gradients: off})  # type: ignore[type-var]  # each is a dataclass

    def stated(self) -> dict[str, object]:
        """Return the fields that differ from the strictest default, for reports."""
        values = {name: getattr(self, name) for name in rows(type(self))}
        return {name: x for name, x in values.items() if x != rows(type(self))[name].default}


def described(kind: type[T]) -> type[T]:
    """Add a line for each field to the docstring of a contract class."""
    lines = [f"{name}: {each.help}" for name, each in rows(kind).items()]  # type: ignore[arg-type]
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", *lines])
    return kind

"""A law: one statement, the cases to try it on, and the promises of a contract that it needs.

`@law(cases, bound=..., needs=...)` makes a Law of a function (subject, **case): one Law for each kind of
kernel, D~ or fused, that the statement holds for. The function itself is unchanged. The pytest plugin makes
the tests of these Laws; dmat/testing/run/search.py tries them.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dmat.strategies.cases import contains
from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.recipes.qkv import DeltaQKV
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import regimes_of
from dmat.strategies.shapes import length_class
from dmat.testing.bounds.named import NamedBound
from dmat.testing.contract import DTILDE
from dmat.testing.devices import lacks
from dmat.testing.law.subject import Subject

Need = Callable[[Any], str | None]
Cost = Literal["cheap", "costly"]

# Of a case without beta, for a delta rule.
OLD = 'the case is of a sum, or of keys="orthonormal", which is gone; dmat check finds cases with beta anew'


@dataclass(frozen=True)
class Law:
    """One statement about the kernels of one kind.

    name: the function's name without "test_law_", unique within a kind. text: the docstring.
    check: the function (subject, **case). parameters: the parts of a case that `check` takes.
    bound: the functions of dmat/testing/bounds/ that say how far rounding may go, EQUAL_BITS, or NO_BOUND.
    needs: functions that return the reason why a contract does not promise this law, or None. cost: "costly"
    if an example takes a compilation, a process or much memory. max_examples: the cap on examples of the
    search; None for the profile's. kind: "D~" or "fused".
    """

    name: str
    text: str
    check: Callable[..., None]
    parameters: tuple[str, ...]
    cases: Cases
    bound: tuple[NamedBound, ...]
    needs: tuple[Need, ...]
    cost: Cost = "cheap"
    max_examples: int | None = None
    kind: str = DTILDE

    @property
    def statement(self) -> str:
        """The statement of the law: the first paragraph of its text, in one line."""
        return " ".join(self.text.split("\n\n")[0].split())

    def arguments(self, case: Case) -> Case:
        """Return the parts of a case that this law takes, in the order of its parameters."""
        return {name: case[name] for name in self.parameters}

    def not_applicable(self, subject: Subject) -> str | None:
        """Return why this law is not for the subject: its device or its contract. None if it is."""
        if reason := lacks(subject.dtype, subject.device):
            return reason
        return next((reason for need in self.needs if (reason := need(subject))), None)

    def why_not(self, subject: Subject, case: Case) -> str | None:
        """Return why this law cannot be tried on this case for this subject, or None if it can."""
        reason = self.not_applicable(subject)
        if reason is not None:
            return reason
        if set(case) != set(self.parameters):
            wanted = ", ".join(self.parameters)
            return f"the case has {', '.join(case) or 'nothing'}; the law {self.name} takes {wanted}"
        if "qkv" in case and subject.contract.erases != isinstance(case["qkv"], DeltaQKV):
            return OLD if subject.contract.erases else "the case has beta, which the kernel does not take"
        allowed = self.cases.inside or contains.any_shape
        fitting = allowed(case, subject.domain)
        name = subject.implementation.name
        return None if fitting else f"the contract of {name} does not allow the case"


def kinds_of(case: Case) -> list[str]:
    """Return "REGIME, LENGTHS" of each different head of a case's gates; none for a case without gates."""
    if "gates" not in case:
        return []
    gates = case["gates"]
    length = length_class(gates.shape[-1])
    return [f"{regime}, {length}" for regime in regimes_of(gates)]


@dataclass(frozen=True)
class Calls:
    """The cases of one kind, for a law of both kinds. parts: the parts of a case that describe a call."""

    cases: Cases
    parts: tuple[str, ...]


def law(
    cases: Cases | Mapping[str, Calls],
    *,
    bound: NamedBound | tuple[NamedBound, ...] | Mapping[str, NamedBound | tuple[NamedBound, ...]],
    needs: tuple[Need, ...] | Mapping[str, tuple[Need, ...]] = (),
    cost: Cost = "cheap",
    max_examples: int | None = None,
    kinds: tuple[str, ...] = (DTILDE,),
) -> Callable[..., Any]:
    """Make a Law of a function (subject, **case) for each kind. The docstring's first line states the law.

    The function is unchanged, and gets its Laws as the attribute `laws`.
    A law of both kinds is a function (subject, call, **rest of the case): `call` is the part of the case that
    describes a call. Its cases, bound and needs may differ by kind. So may its docstring:
    {words of D~ // words of fused kernels} stands for the first words or for the second.
    """

    def make(check: Callable[..., None]) -> Callable[..., None]:
        name = check.__name__.removeprefix("test_law_")
        laws = []
        for kind in kinds:
            own, named, needed = (_of_kind(x, kind) for x in (cases, bound, needs))
            bounds = named if isinstance(named, tuple) else (named,)
            text = _worded(check.__doc__ or "", kinds.index(kind)) if len(kinds) > 1 else check.__doc__ or ""
            parameters = tuple(inspect.signature(check).parameters)[1:]
            if isinstance(own, Calls):
                parameters = (*own.parts, *parameters[1:])
            one = _on_calls(check, own.parts) if isinstance(own, Calls) else check
            tried = own.cases if isinstance(own, Calls) else own
            laws.append(
                Law(name, text, one, tuple(parameters), tried, bounds, needed, cost, max_examples, kind)
            )
        check.__dict__["laws"] = tuple(laws)
        return check

    return make


def _of_kind(value: Any, kind: str) -> Any:
    return value[kind] if isinstance(value, Mapping) else value


def _worded(text: str, number: int) -> str:
    """Return a docstring in which the first or the second words replace each {words // words}.

    number: 0 for the first words, 1 for the second.
    """
    return re.sub(r"\{([^{}]*?)\s?//\s?([^{}]*?)\}", lambda both: both[1 + number], text)


def _on_calls(check: Callable[..., None], parts: tuple[str, ...]) -> Callable[..., None]:
    """Return the check (subject, call, ...) of a law of both kinds as a check (subject, **case)."""

    @functools.wraps(check)
    def on_calls(subject: Subject, **case: Any) -> None:
        call = {name: case.pop(name) for name in parts}
        check(subject, call, **case)

    return on_calls

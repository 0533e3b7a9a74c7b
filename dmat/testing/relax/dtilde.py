"""The promises that a contract of D~ may give up, the most important first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dmat.strategies.cases.dtilde import COTANGENTS, Cases
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import DTYPES, SPECIAL_VALUES, AnyContract, Contract
from dmat.testing.contract.fields import MASKED_COTANGENTS
from dmat.testing.contract.rows import BaseContract, rows
from dmat.testing.contract.written import fields_written
from dmat.testing.grade.dtilde import telling
from dmat.testing.law.law import Law
from dmat.testing.registry import law_named

Terms = dict[str, Any]  # a promise: one of its options


@dataclass(frozen=True)
class Promises(ABC):
    """The promises that may be widened.

    options: promises by what it costs to give them up, dearest first; of each, what may be promised,
        strictest first.
    """

    options: Mapping[str, tuple[Any, ...]]

    @property
    def strictest(self) -> Terms:
        """The first option of each."""
        return {name: options[0] for name, options in self.options.items()}

    @property
    def widest(self) -> Terms:
        """The last option of each."""
        return {name: options[-1] for name, options in self.options.items()}

    def no_stricter(self, terms: Terms, other: Terms) -> bool:
        """Return whether no term is stricter than the other's."""
        return all(options.index(terms[n]) >= options.index(other[n]) for n, options in self.options.items())

    def given_up(self, terms: Terms) -> tuple[int, ...]:
        """Return how far each promise is given up, dearest first: of two terms the lesser hides less."""
        return tuple(options.index(terms[name]) for name, options in self.options.items())

    @abstractmethod
    def contract(self, terms: Terms, fixed: AnyContract) -> AnyContract:
        """Return the contract of these terms; fields that are none of the options stay as they are fixed."""

    def variants(self, plain: AnyContract) -> list[AnyContract]:
        """Return contracts of which none is wider than another; each is tried."""
        return [plain]

    @abstractmethod
    def tellers(self) -> list[Law]:
        """Return laws with a ladder that tells error scopes apart: none should stand by chance."""

    @abstractmethod
    def written(self, contract: AnyContract) -> str:
        """Return a contract as Python, to be pasted."""


class DtildePromises(Promises):
    """Those of D~: a bare function has made none of them."""

    def contract(self, terms: Terms, fixed: AnyContract) -> AnyContract:
        """Return the contract of these terms."""
        narrowed = {d: terms[d] for d in DTYPES if d in terms and terms[d] != self.strictest[d]}
        plain = {name: terms[name] for name in self.options if name not in (*DTYPES, *SPECIAL_VALUES)}
        special = tuple(name for name in SPECIAL_VALUES if terms[name])
        return replace(fixed, accumulates_in=narrowed or None, special_values=special, **plain)

    def variants(self, plain: AnyContract) -> list[AnyContract]:
        """Return both ways in which a cotangent above the diagonal may be taken."""
        assert isinstance(plain, Contract)
        return [replace(plain, masked_cotangent=masked) for masked in MASKED_COTANGENTS]

    def tellers(self) -> list[Law]:
        """Return the laws of values and of gradients."""
        cases = Cases(draw=COTANGENTS.draw, ladder=_telling)
        names = ("values", "input_gradient", "forget_gradient")
        return [replace(law_named(name), cases=cases) for name in names]

    def written(self, contract: AnyContract) -> str:
        """Return the decorator to paste above a kernel."""
        return f"@dmat.testing.implementation({fields_written(contract.stated())})"


def options(kind: type[BaseContract], *dearest: str) -> dict[str, tuple[Any, ...]]:
    """Return what each row of this kind may give up: these first, then the others as they stand."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, row in rows(kind).items():
        if row.relaxations:
            found |= row.relaxations if isinstance(row.relaxations, Mapping) else {name: row.relaxations}
    return {name: found[name] for name in (*dearest, *found)}


OPTIONS = options(
    Contract,
    *("error_scope", "gates", "float64", "bfloat16", "float16", "-inf", "zero_length", "+inf", "nan"),
    *("exact_sums", "second_order", "forward_mode", "deterministic"),
)


def _telling(domain: Domain) -> Iterator[Case]:
    for gates, cotangent in telling(domain):
        yield {"gates": gates, "cotangent": cotangent}

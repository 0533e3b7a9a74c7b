"""The promises that a D~ contract may give up, most expensive first: the space of the search in search.py."""

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

Terms = dict[str, Any]  # the chosen option of each promise


@dataclass(frozen=True)
class Promises(ABC):
    """The promises that may be widened.

    options: the options of each promise, strictest first. The promises are ordered by the cost of giving them
        up, most expensive first.
    """

    options: Mapping[str, tuple[Any, ...]]

    @property
    def strictest(self) -> Terms:
        """The strictest option of each promise."""
        return {name: options[0] for name, options in self.options.items()}

    @property
    def widest(self) -> Terms:
        """The widest option of each promise."""
        return {name: options[-1] for name, options in self.options.items()}

    def no_stricter(self, terms: Terms, other: Terms) -> bool:
        """Return whether no term is stricter than the other's."""
        return all(options.index(terms[n]) >= options.index(other[n]) for n, options in self.options.items())

    @abstractmethod
    def terms_of(self, contract: Any) -> Terms:
        """Return the option of each promise that a contract states."""

    def given_up(self, terms: Terms) -> tuple[int, ...]:
        """Return how far each promise is given up, most expensive first. Smaller terms hide fewer bugs."""
        return tuple(options.index(terms[name]) for name, options in self.options.items())

    @abstractmethod
    def contract(self, terms: Terms, fixed: AnyContract) -> AnyContract:
        """Return the contract of these terms. Fields that are not options are taken from `fixed`."""

    def variants(self, plain: AnyContract) -> list[AnyContract]:
        """Return contracts none of which is wider than another. The search tries each of them."""
        return [plain]

    @abstractmethod
    def discriminating_cases(self) -> list[Law]:
        """Return laws whose ladder discriminates between error scopes, so that none stands by chance."""

    @abstractmethod
    def written(self, contract: AnyContract) -> str:
        """Return the contract as Python source to paste."""


class DtildePromises(Promises):
    """The promises of a D~ kernel. A bare function states none of them."""

    def contract(self, terms: Terms, fixed: AnyContract) -> AnyContract:
        """Return the contract of these terms."""
        narrowed = {d: terms[d] for d in DTYPES if d in terms and terms[d] != self.strictest[d]}
        plain = {name: terms[name] for name in self.options if name not in (*DTYPES, *SPECIAL_VALUES)}
        special = tuple(name for name in SPECIAL_VALUES if terms[name])
        return replace(fixed, accumulates_in=narrowed or None, special_values=special, **plain)

    def terms_of(self, contract: Contract) -> Terms:
        """Return the option of each promise that a contract states."""
        special = {name: name in contract.special_values for name in SPECIAL_VALUES}
        known = special | {dtype: contract.accumulator(dtype) for dtype in DTYPES}
        return {name: known[name] if name in known else getattr(contract, name) for name in self.options}

    def variants(self, plain: AnyContract) -> list[AnyContract]:
        """Return one contract per treatment of a cotangent above the diagonal."""
        assert isinstance(plain, Contract)
        return [replace(plain, masked_cotangent=masked) for masked in MASKED_COTANGENTS]

    def discriminating_cases(self) -> list[Law]:
        """Return the laws of values and of gradients."""
        cases = Cases(draw=COTANGENTS.draw, ladder=_telling)
        names = ("values", "input_gradient", "forget_gradient")
        return [replace(law_named(name), cases=cases) for name in names]

    def written(self, contract: AnyContract) -> str:
        """Return the decorator to paste above a kernel."""
        return f"@dmat.testing.implementation({fields_written(contract.stated())})"


def options(kind: type[BaseContract], *dearest: str) -> dict[str, tuple[Any, ...]]:
    """Return the relaxations of each contract row of this kind: `dearest` first, then in the rows' order."""
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

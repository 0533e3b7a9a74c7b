"""The promises that a fused kernel's contract may give up, most expensive first.

Promises that the author has stated are kept. Only promises at their defaults may be widened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.cases.fused import PROBED
from dmat.strategies.domain import Domain
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import AnyContract, FusedContract
from dmat.testing.contract.fused import implied_grad_scope
from dmat.testing.contract.written import fields_written
from dmat.testing.grade.fused import telling
from dmat.testing.law.law import Law
from dmat.testing.oracle.reads import READS
from dmat.testing.registry import law_named
from dmat.testing.relax.dtilde import Promises, Terms, options

# The first promises hide most bugs when given up: laws of bits, layouts, the range of gates, accuracy.
OPTIONS = options(
    FusedContract,
    *("deterministic", "strided", "l_min", "accumulates_in", "multiplies_in", "error_scope", "grad_scope"),
    *("doubling", "inverse_in", "gates", "gradient", "causal", "homogeneous", "exact_sums"),
)


@dataclass(frozen=True)
class FusedPromises(Promises):
    """The promises that one contract leaves at their defaults."""

    own: FusedContract

    @classmethod
    def of(cls, own: FusedContract, claimed: frozenset[str] = frozenset()) -> FusedPromises:
        """Return the promises that this contract does not state and that have a meaning for it.

        claimed: promises that the kernel's own calls show (claimed.py).
        """
        none = not own.has_gradients
        absent = {
            "gradient": none or not READS[own.reads].truncates,
            "grad_scope": none or own.erases,
            "doubling": not own.erases,
            "inverse_in": not own.erases,
            "gates": not own.from_preact,
            "l_min": own.gate == "fixed",
            "packed_states": own.states is None or own.packed is None,
            "state_gradients": none or own.states is None,
        }
        closed = {name for name, meaningless in absent.items() if meaningless} | claimed | set(own.stated())
        return cls({name: options for name, options in OPTIONS.items() if name not in closed}, own)

    def contract(self, terms: Terms, fixed: AnyContract) -> AnyContract:
        """Return the contract of these terms."""
        plain = dict(terms)
        if "grad_scope" in plain:
            implied = implied_grad_scope(plain.get("error_scope", self.own.error_scope))
            wanted = plain["grad_scope"] if plain["grad_scope"] == "rectangle" else _end(fixed)
            plain["grad_scope"] = None if wanted == implied else wanted
        return replace(fixed, **plain)

    def terms_of(self, contract: FusedContract) -> Terms:
        """Return the option of each promise that a contract states."""
        terms = {name: getattr(contract, name) for name in self.options}
        if "grad_scope" in terms:
            whole = contract.widest_gradient == "rectangle"
            terms["grad_scope"] = self.options["grad_scope"][0 if whole else -1]
        return terms

    def variants(self, plain: AnyContract) -> list[AnyContract]:
        """Return one contract per end from which gradients may be summed, if grad_scope is not stated."""
        front = replace(cast(FusedContract, plain), grad_scope="prefix")
        return [plain, front] if "grad_scope" in self.options else [plain]

    def discriminating_cases(self) -> list[Law]:
        """Return the laws of values and of the forget gate's gradient. None for a fixed gate."""
        if self.own.gate == "fixed":
            return []
        cases = Cases(draw=PROBED.draw, ladder=_telling)
        return [
            replace(law_named(name, self.own.kind), cases=cases) for name in ("values", "forget_gradient")
        ]

    def written(self, contract: AnyContract) -> str:
        """Return the arguments to add to the call of fused(), as Python source."""
        more = {name: x for name, x in contract.stated().items() if x != getattr(self.own, name, None)}
        return f"dmat.testing.fused(..., {fields_written(more)})"


def _end(fixed: AnyContract) -> str:
    """Return the end from which gradients beyond the rectangle are summed."""
    return "prefix" if cast(FusedContract, fixed).grad_scope == "prefix" else "suffix"


def _telling(domain: Domain) -> Iterator[Case]:
    return telling(cast(FusedDomain, domain))

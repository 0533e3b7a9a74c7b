"""The promises of one kernel that may be relaxed, and the contract without any set of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dmat.testing.contract import DTILDE, DTYPES, SPECIAL_VALUES, AnyContract
from dmat.testing.contract.rows import rows
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.record import Wider, stated
from dmat.testing.relax.dtilde import Promises, Terms
from dmat.testing.relax.search import promises_of

Names = frozenset[str]
MASKED = "masked_cotangent"
NO_CAUSE = ("dtypes", "devices")  # a dtype that no contract admits has a bug


@dataclass(frozen=True)
class Relaxable:
    """The promises of a kernel that may be relaxed, each to one weaker option.

    own: the kernel. base: the options of its own contract. target: the weaker options. changed: weaker values
    of fields that are no option of the search. whole: whether every law was tried with all promises relaxed.
    """

    own: Implementation
    promises: Promises
    base: Terms
    target: Terms
    changed: Mapping[str, Any]
    whole: bool

    @classmethod
    def of(cls, own: Implementation, wider: Wider | None) -> Relaxable:
        """Relax what the contract found gives up; without one, all that is not stated, as far as possible."""
        promises = promises_of(own)
        base = promises.terms_of(own.contract)
        kept = _stated_names(own.contract)
        if wider is None or wider.contract is None or wider.outcome != "found":
            target = {name: x if name in kept else promises.widest[name] for name, x in base.items()}
            free = own.contract.kind == DTILDE and MASKED not in kept
            return cls(own, promises, base, target, {MASKED: "summed"} if free else {}, whole=False)
        found = _with_fields(own.contract, wider.contract)
        target = promises.terms_of(found)
        options = {"special_values", "accumulates_in", *promises.options, *NO_CAUSE}
        changed = {
            name: getattr(found, name)
            for name in rows(type(found))
            if name not in options and getattr(found, name) != getattr(own.contract, name)
        }
        return cls(own, promises, base, target, changed, whole=not wider.wrong_in)

    @property
    def names(self) -> list[str]:
        """The promises, most expensive to give up first."""
        return [name for name in self.base if self.target[name] != self.base[name]] + list(self.changed)

    @property
    def widest(self) -> list[Names]:
        """The largest sets: one without `masked_cotangent`, which is no weaker when relaxed, and one with."""
        every = frozenset(self.names)
        return list(dict.fromkeys([every - {MASKED}, every]))

    def around(self, given_up: Names) -> Names:
        """Return the largest set that holds these promises."""
        return self.widest[-1] if MASKED in given_up else self.widest[0]

    def contract(self, given_up: Names) -> AnyContract:
        """Return the contract without these promises. What the kernel states stays."""
        own = self.own.contract
        if not given_up:
            return own
        terms = {name: self.target[name] if name in given_up else x for name, x in self.base.items()}
        fixed = replace(own, **{name: x for name, x in self.changed.items() if name in given_up})
        kept = {name: getattr(own, name) for name in own.stated()}
        return replace(self.promises.contract(terms, fixed), **kept)

    def without(self, given_up: Names) -> Implementation:
        """Return the kernel with the contract without these promises."""
        return replace(self.own, contract=self.contract(given_up))

    def between(self, name: str) -> tuple[Any, ...]:
        """Return the options of a promise between its own and the weaker one, strictest first."""
        options = self.promises.options.get(name, ())
        if not options:
            return ()
        return options[options.index(self.base[name]) + 1 : options.index(self.target[name])]

    def with_target(self, name: str, option: Any) -> Relaxable:
        """Return a copy that relaxes a promise to another option."""
        return replace(self, target={**self.target, name: option})

    def values(self, given_up: Names) -> dict[str, Any]:
        """Return the weaker option of each of these promises."""
        known = {**self.target, **self.changed}
        return {name: known[name] for name in (*self.base, *self.changed) if name in given_up}

    def written(self, given_up: Names) -> str:
        """Return the decorator of the contract without these promises."""
        return self.promises.written(self.contract(given_up))


def _stated_names(own: AnyContract) -> set[str]:
    """Return the names of the promises that the contract states, under the names of the search."""
    names = set(own.stated())
    if own.kind == DTILDE:
        names |= set(SPECIAL_VALUES) if "special_values" in names else set()
        names |= set(DTYPES) if "accumulates_in" in names else set()
    return names


def _with_fields(own: AnyContract, found: Mapping[str, Any]) -> AnyContract:
    """Return the contract with the fields of a contract that was found, which are values of JSON."""
    known = stated(own.stated())
    changed = {name: x for name, x in found.items() if x != known.get(name) and name not in NO_CAUSE}
    values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in changed.items()}
    return replace(own, **values)

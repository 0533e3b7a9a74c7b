"""A case that breaks a law, kept as text: read again, and held against other contracts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

import dmat.strategies
from dmat.strategies import Cotangent, Gates
from dmat.strategies.cases import EXACT, EXACT_COTANGENTS, Case
from dmat.strategies.cotangents import exact_budget
from dmat.strategies.gates import UNIT, exact_units
from dmat.testing.exact import Array
from dmat.testing.law import Law
from dmat.testing.report import laws
from dmat.testing.subject import Implementation, Refused, Subject
from dmat.testing.verdict import LawBroken, as_array

NAMES = ("-inf", "+inf", "nan")  # of special values, as contracts have them


@cache
def law_named(name: str) -> Law:
    """Return the law of this name."""
    return next(law for law in laws() if law.name == name)


@dataclass(frozen=True)
class Counterexample:
    """A law, where it was tried, and the case as a report shows it: a line of Python an argument.

    deadly: the process died of it, so it is not tried again, and breaks its law wherever it is allowed.
    """

    law: str
    dtype: str
    device: str
    case: str
    deadly: bool = False

    def read(self) -> Case:
        """Return the case: its text evaluated with the names of dmat.strategies."""
        names: Case = dict(vars(dmat.strategies))
        exec(self.case, names)
        return {line.partition(" = ")[0]: names[line.partition(" = ")[0]] for line in self.case.splitlines()}

    def refutes(self, implementation: Implementation) -> bool:
        """Whether its contract allows the case and implies the law, and the law does not hold."""
        if self.dtype not in implementation.contract.dtypes:
            return False
        law, case = law_named(self.law), self.read()
        subject = Subject(implementation, self.dtype, self.device)
        if law.not_applicable(subject) or not allowed(law, subject, case):
            return False
        try:
            if not self.deadly:
                law.check(subject, **case)
        except LawBroken:
            return True
        except Refused:
            return False
        return self.deadly


def allowed(law: Law, subject: Subject, case: Case) -> bool:
    """Whether a law may be tried on this case under the subject's contract."""
    gates = [part for part in case.values() if isinstance(part, Gates)]
    cotangents = [part.build(case["gates"]) for part in case.values() if isinstance(part, Cotangent)]
    fitting = all(_fits(recipe, subject) for recipe in gates)
    if not fitting or case.get("cut", 0) % subject.contract.seq_multiple_of:
        return False
    G = [as_array(cotangent) for cotangent in cotangents]
    if subject.contract.masked_cotangent == "summed" and not all(np.isfinite(x).all() for x in G):
        return False
    if law.cases not in (EXACT, EXACT_COTANGENTS):
        return True
    return all(_in_exact_regime(recipe, G, subject) for recipe in gates)


def _values(gates: Gates) -> tuple[Array, Array]:
    igate, fgate = gates.dense()
    return as_array(igate)[..., 0], as_array(fgate)[..., 0]


def _fits(gates: Gates, subject: Subject) -> bool:
    """Whether the contract takes gates of this shape, and the special values among them."""
    contract, S = subject.contract, gates.shape[-1]
    longest = S if contract.max_seq is None else contract.max_seq
    if S % contract.seq_multiple_of or longest < S or (0 in gates.shape and not contract.zero_length):
        return False
    both = np.concatenate(_values(gates))
    found = (both == -np.inf).any(), (both == np.inf).any(), np.isnan(both).any()
    return all(name in contract.special_values for name, is_in in zip(NAMES, found, strict=True) if is_in)


def _in_exact_regime(gates: Gates, cotangents: list[Array], subject: Subject) -> bool:
    """Whether all sums are exact in the accumulator of the contract (docs/spec.md section 4)."""
    accumulator = subject.domain.accumulator
    igate, fgate = _values(gates)
    decays = np.abs(np.where(np.isfinite(fgate), fgate, 0.0)).sum(-1)
    sums = np.abs(igate).max(-1, initial=0.0) + decays
    counted = cotangents if subject.contract.masked_cotangent == "summed" else map(np.tril, cotangents)
    most = max((float(np.abs(G).sum((-2, -1)).max(initial=0.0)) for G in counted), default=0.0)
    within = float(sums.max(initial=0.0)) <= UNIT * exact_units(subject.dtype, accumulator)
    return within and most <= exact_budget(subject.dtype, accumulator)

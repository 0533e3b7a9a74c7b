"""Batch invariance: whether a part of the input gives the same bits alone as in the whole. It is no law.

A model that is served in batches of changing size, or decoded after training on whole sequences, gives
reproducible results only if its kernels are batch-invariant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import LawBroken

Part = tuple[slice, slice, slice]  # slices of batches, heads and times
Results = dict[str, tuple[Array, ...]]  # arrays by quantity

TRAITS = {
    "head": "whether one batch and head alone gives the same bits as among all",
    "prefix": "whether the first times alone give the same bits as in the whole sequence",
}
ENOUGH = 100  # a trait that holds for this many cases is not tried again


@dataclass
class Trait:
    """Whether a trait holds, the number of cases tried, and the first case that violates it."""

    holds: bool = True
    cases: int = 0
    case: str | None = None

    def note(self, same: bool, case: Case) -> None:
        """Count a case. Keep the first case that violates the trait."""
        self.cases += 1
        if self.holds and not same:
            self.holds, self.case = False, shown(case)


def traits(subject: DtildeSubject, case: Case, conduct: dict[tuple[str, str], Trait]) -> None:
    """Test a head and a prefix of this case for batch invariance, and record the results in `conduct`.

    The keys of `conduct` are (name of TRAITS, "forward" or "gradients"). A trait that is already violated is
    not tried again.
    """
    (b, h), cut = case["head"], case["cut"]
    B, NH, S = case["gates"].shape
    everything = slice(None)
    parts: dict[str, Part] = {}
    if B * NH > 1:
        parts["head"] = slice(b, b + 1), slice(h, h + 1), everything
    if 0 < cut < S:
        parts["prefix"] = everything, everything, slice(0, cut)
    for name, part in parts.items():
        known = [conduct.get((name, quantity), Trait()) for quantity in ("forward", "gradients")]
        if any(trait.holds and trait.cases < ENOUGH for trait in known):
            for quantity, same in same_bits(subject, case, part).items():
                conduct.setdefault((name, quantity), Trait()).note(same, case)


def same_bits(subject: DtildeSubject, case: Case, part: Part) -> dict[str, bool]:
    """Return, by quantity, whether this part of the gates gives the same bits alone as in the whole.

    The cotangent is zero outside the part, so that both calls have the same sums. All inputs are contiguous.
    """
    igate, fgate = case["gates"].dense()
    G = case["cotangent"].build(case["gates"])
    square = (*part, part[-1])
    reaching = torch.zeros(G.shape, dtype=G.dtype)
    reaching[square] = G[square]
    try:
        whole = _results(subject, igate, fgate, reaching)
        alone = _results(subject, igate[part], fgate[part], G[square])
    except LawBroken:  # one of the two calls raised: not the same
        return {"forward": False}
    return {
        quantity: all(
            np.array_equal(x[square if quantity == "forward" else part], y, equal_nan=True)
            for x, y in zip(whole[quantity], alone[quantity], strict=True)
        )
        for quantity in whole
    }


def _results(subject: DtildeSubject, *inputs: Tensor) -> Results:
    igate, fgate, G = (x.contiguous().to(subject.device) for x in inputs)
    if not subject.contract.has_gradients:
        return {"forward": (subject.forward_of(igate, fgate).dtilde,)}
    gradients = subject.gradients_of(igate, fgate, G)
    return {"forward": (gradients.run.dtilde,), "gradients": (gradients.di, gradients.df)}

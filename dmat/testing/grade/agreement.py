"""Identity: pairs of calls that should give the same bits, and how far apart they are. It is no law.

A model that is served in batches of changing size, or decoded token by token after training on whole
sequences, gives reproducible results only if its kernels give the same bits both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.grade.result import IdentityResult
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import LawBroken, as_array

PAIRS = {
    "packed": "sequences packed in one call, and each alone",
    "split": "one call, and two with the state handed over",
    "decode": "one call, and a call a token with the state handed over",
    "order": "a batch in order, and reversed",
    "batch": "a row of a batch, and alone",
    "head": "a batch and head among all, and alone",
    "prefix": "the first times of a sequence, and alone",
    "config": "the autotune configuration, and the others",
}
ENOUGH = 100  # a pair that was the same for so many cases is not tried again
Results = dict[str, Tensor]  # by the name that findings print


def ulps(first: Array, second: Array, dtype: torch.dtype) -> float:
    """Return the largest |x - y| in units of the last place of the larger of the two; inf if only one is NaN.

    NaN equals NaN, and the sign of zero is free. inf too where one is infinite and the other is not it.
    """
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    info = torch.finfo(dtype)
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.maximum(np.abs(first), np.abs(second)), info.smallest_normal)
        unit = np.ldexp(info.eps, np.frexp(size)[1] - 1)
        apart = np.where(same, 0.0, np.abs(first - second) / unit)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


@dataclass
class Agreement:
    """How far apart a pair of calls is: the worst case, and the shortest length at which the bits differ."""

    cases: int = 0
    worst: float = 0.0
    length: int | None = None
    case: str | None = None
    raised: str = ""

    def note(self, worst: float, S: int, case: Case, raised: str = "") -> None:
        """Count a case of length S. Keep the first case that differs, and what a call raised."""
        self.cases += 1
        if worst > 0:
            self.worst, self.length = max(self.worst, worst), min(S, self.length or S)
            self.case, self.raised = self.case or shown(case), self.raised or raised


@dataclass
class Identity:
    """The agreements of one implementation, dtype and device, by pair and quantity."""

    found: dict[tuple[str, str], Agreement] = field(default_factory=dict)

    def wants(self, pair: str) -> bool:
        """Whether another case of this pair can tell more."""
        known = [one for (name, _), one in self.found.items() if name == pair]
        return not known or any(one.worst > 0 or one.cases < ENOUGH for one in known)

    def note(self, pair: str, first: Results, second: Results, case: Case) -> None:
        """Compare the results that both calls have, bit for bit."""
        for name in first.keys() & second.keys():
            one, other = first[name], second[name]
            alike = one.shape == other.shape and one.dtype == other.dtype
            apart = ulps(as_array(one), as_array(other), one.dtype) if alike else float("inf")
            self._of(pair, name).note(apart, case["gates"].shape[-1], case)

    def failed(self, pair: str, name: str, broken: LawBroken, case: Case) -> None:
        """Note that one of the two calls raised, or returned something else than the promised tensor."""
        said = broken.finding.computed
        self._of(pair, name).note(float("inf"), case["gates"].shape[-1], case, raised=said)

    def _of(self, pair: str, name: str) -> Agreement:
        return self.found.setdefault((pair, name), Agreement())

    def results(self) -> list[IdentityResult]:
        """Return the agreements in the order of PAIRS, as structs."""
        order = list(PAIRS)
        each = sorted(self.found.items(), key=lambda item: order.index(item[0][0]))
        return [_result(*names, one) for names, one in each]


def _result(pair: str, quantity: str, one: Agreement) -> IdentityResult:
    finite = one.worst if np.isfinite(one.worst) else None
    return IdentityResult(pair, quantity, one.worst == 0, finite, one.length, one.cases, one.case, one.raised)


def joined(parts: list[Results]) -> Results:
    """Return the results of several calls, one after another in time."""
    names = parts[0].keys()
    return {name: torch.cat([part[name] for part in parts], 2) for name in names}


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies."""
    return {name: x.contiguous() for name, x in tensors.items()}

"""D~ and its gradients beside their bounds, a head at a time, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from torch import Tensor

from dmat.testing.assertion.heads import Head
from dmat.testing.assertion.judged import Judged, expected_within, judge, judged_entries
from dmat.testing.assertion.rows import BLOCK, windows_of
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import Rounding
from dmat.testing.contract import Contract
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import Array, Pair, single
from dmat.testing.oracle.dtilde import Backward, CotangentSums, Forward
from dmat.testing.oracle.gates import GateTerms
from dmat.testing.verdict.finding import Expected, as_array


def no_kernel(*tensors: Tensor) -> Tensor:
    """Stand for the kernel whose results are judged: it is not called."""
    raise NotImplementedError


@dataclass(frozen=True)
class DtildeHead:
    """One head of a call: igate, fgate (1, 1, S)."""

    contract: Contract
    dtype: str
    head: Head
    igate: Array
    fgate: Array

    @property
    def subject(self) -> DtildeSubject:
        """The subject of the laws, for its rounding."""
        return DtildeSubject(Implementation("the result", no_kernel, self.contract), self.dtype)

    @property
    def rounding(self) -> Rounding:
        """The rounding that the contract allows."""
        return self.subject.rounding

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last row (exclusive) of each block."""
        S = self.igate.shape[-1]
        step = max(1, BLOCK // max(S, 1))
        return ((first, min(S, first + step)) for first in range(0, S, step))

    # Forward

    def truths(self) -> Iterator[Forward]:
        """Yield the true values of each block of rows."""
        wide, before, condition = self.subject.wide, None, None
        with np.errstate(all="ignore"):
            terms = GateTerms.of(self.fgate, wide=wide)
            windows = pair_windows if wide else single_windows
            for first, end in self.spans():
                rows = slice(first, end)
                sums = windows(terms.log, rows, before)
                conditions = windows_of(terms.log_condition, rows, condition)
                yield Forward.of_sums(self.igate, self.fgate, terms, sums, conditions, first, wide=wide)
                before, condition = sums[..., -1, :], conditions[..., -1, :].copy()

    def forward(self, D: Tensor) -> Judged:
        """Judge D~, (S, S)."""
        S, worst, found = self.igate.shape[-1], 0.0, list[Judged]()
        wrong, judged = (np.zeros((S, S), dtype=bool) for _ in range(2))
        for truth in self.truths():
            rows = slice(truth.first, truth.first + truth.kind.shape[-2])
            bound = forward_bound(truth, self.rounding)
            expected = Expected("D~", truth.kind, truth.value, truth.slack, bound, truth.ball)
            one = judge(as_array(D[rows])[None, None], expected, self.head)
            worst, judged[rows] = max(worst, one.worst), judged_entries(expected)[0, 0]
            if one.finding is not None and one.wrong is not None:
                b, h, t, s = one.finding.index
                found.append(replace(one, finding=replace(one.finding, index=(b, h, t + truth.first, s))))
                wrong[rows] = one.wrong
        if not found:
            return Judged("D~", self.head, worst)
        return replace(max(found, key=lambda each: each.worst), wrong=wrong, judged=judged | wrong)

    # Gradients

    def backward(self, G: Tensor) -> Backward:
        """Return the true gradients for the cotangent G, (S, S)."""
        masked, wide, none = self.contract.masked_cotangent, self.subject.wide, np.zeros((1, 1, 0, 0))
        blocks = (
            CotangentSums.of(as_array(G[first:end])[None, None], first, masked_cotangent=masked, wide=wide)
            for first, end in self.spans()
        )
        return Backward.of_sums(self.fgate, reduce(add, blocks), none, wide=wide)

    def gradients(self, G: Tensor, given: Mapping[str, Tensor]) -> Iterator[Judged]:
        """Judge gradients, (S,) each, by the name of their gate."""
        truth = self.backward(G)
        for name, x in given.items():
            yield judge(as_array(x)[None, None], self._gradient(truth, name), self.head)

    def _gradient(self, truth: Backward, name: str) -> Expected:
        of_igate = name == "igate_preact"
        gate = self.igate if of_igate else self.fgate
        with np.errstate(all="ignore"):
            bound = (igate_gradient_bound if of_igate else fgate_gradient_bound)(truth, self.rounding)
        value, slack = (truth.di, truth.di_slack) if of_igate else (truth.df, truth.df_slack)
        expected = expected_within("di" if of_igate else "df", value.hi, slack, bound)
        return replace(expected, value=value).freed(np.isnan(gate))


Windows = Callable[[Pair, slice, Pair | None], Pair]


def single_windows(log: Pair, rows: slice, before: Pair | None) -> Pair:
    """Sum log over windows in float64, for these rows. before: the sums at the last row before them."""
    return single(windows_of(log.hi, rows, None if before is None else before.hi))


def pair_windows(log: Pair, rows: slice, before: Pair | None) -> Pair:
    """Sum log over windows in pairs, row by row."""
    s, zeros = np.arange(log.hi.shape[-1]), single(np.zeros_like(log.hi))
    found = [zeros if before is None else before]
    for t in range(rows.start, rows.stop):
        here = (np.where(s < t, part[..., t : t + 1], 0.0) for part in (log.hi, log.lo))
        found.append(found[-1] + Pair(*here))
    return Pair(*(np.stack([getattr(x, name) for x in found[1:]], -2) for name in ("hi", "lo")))

"""Laws of locality: D~[t, s] reads i[s] and f over s < k <= t of its own head, and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmat.properties import needs
from dmat.strategies import Gates
from dmat.strategies.cases.dtilde import WINDOWS
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.kernel.dtilde import Run
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import law
from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.verdict.require import require_kinds


def run_both(
    subject: DtildeSubject, gates: Gates, rival: tuple[Tensor, Tensor], keep_i: Mask, keep_f: Mask
) -> tuple[Run, Run]:
    """Call on the gates, and on gates that agree with them just where told; shapes and strides alike."""
    igate, fgate = gates.dense()
    before = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    igate = torch.where(torch.from_numpy(keep_i)[..., None], igate, rival[0])
    fgate = torch.where(torch.from_numpy(keep_f)[..., None], fgate, rival[1])
    return before, subject.forward_of(*gates.lay_out(igate, fgate, subject.device))


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_locality(
    subject: DtildeSubject, gates: Gates, rival: Gates, head: tuple[int, int], t: int, s: int
) -> None:
    """Change all that D~[t, s] does not read, and it stays, bit for bit in window scope.

    Why: Stray reads, wrong strides and heads, rounding that depends on others: all change an entry from
        outside.
    Bound: zero for the window scope; else both bounds of section 3.
    """
    keep_i, keep_f = (np.zeros(gates.shape, dtype=bool) for _ in range(2))
    keep_i[(*head, s)] = True
    keep_f[(*head, slice(s + 1, t + 1))] = True
    before, after = run_both(subject, gates, rival.dense(), keep_i, keep_f)
    unread = np.zeros(before.dtilde.shape, dtype=bool)
    unread[(*head, slice(s, t + 1), s)] = True
    subject.require_unchanged(after, before, unread, "all it reads was kept, all else changed")


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_causality(subject: DtildeSubject, gates: Gates, rival: Gates, t: int) -> None:
    """Rows up to t do not read the gates after t.

    Why: A model that decodes step by step sees prefixes only: its bits must not move with what comes
        later.
    Bound: zero for the window scope; else both bounds of section 3.
    """
    keep = np.zeros(gates.shape, dtype=bool)
    keep[..., : t + 1] = True
    before, after = run_both(subject, gates, rival.dense(), keep, keep)
    past = np.zeros(before.dtilde.shape, dtype=bool)
    past[..., : t + 1, :] = True
    subject.require_unchanged(after, before, past, "only gates of later times were changed")


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_first_forget_gate(subject: DtildeSubject, gates: Gates, rival: Gates) -> None:
    """The first forget gate is in no window: f[0] changes nothing.

    Why: The first forget gate is in no window; whoever begins the sum at 0 instead of s + 1 reads it.
    Bound: zero for the window scope; else both bounds of section 3.
    """
    keep = np.ones(gates.shape, dtype=bool)
    keep_f = keep.copy()
    keep_f[..., 0] = False
    before, after = run_both(subject, gates, rival.dense(), keep, keep_f)
    subject.require_unchanged(after, before, np.ones_like(before.dtilde, dtype=bool), "f[0] changed")


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound), needs=(needs.special_value("nan"),))
def test_law_nan_containment(
    subject: DtildeSubject, gates: Gates, head: tuple[int, int], t: int, s: int
) -> None:
    """A NaN gate makes NaN of what reads it and touches nothing else: i[s] its column, f[t] what spans t.

    Why: One bad token must not take the whole sequence, nor be hidden by a mask that selects too late.
    Bound: zero outside what reads it.
    """
    igate, fgate = gates.dense()
    before = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    igate[(*head, s)] = float("nan")
    fgate[(*head, t)] = float("nan")
    after = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    readers = np.zeros(before.dtilde.shape, dtype=bool)
    readers[(*head, slice(s, None), s)] = True
    readers[(*head, slice(t, None), slice(None, t))] = True
    subject.require_unchanged(after, before, ~readers, "it reads neither NaN gate")
    require_kinds(after.dtilde, subject.expected_dtilde(after).freed(~readers))


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_independence(subject: DtildeSubject, gates: Gates, rival: Gates, head: tuple[int, int]) -> None:
    """A head of a batch reads no gate of another.

    Why: A wrong stride factor reads the neighbour's gates, and shows only if heads differ.
    Bound: zero for the window scope; else both bounds of section 3.
    """
    keep = np.zeros(gates.shape, dtype=bool)
    keep[head] = True
    before, after = run_both(subject, gates, rival.dense(), keep, keep)
    own = np.zeros(before.dtilde.shape, dtype=bool)
    own[head] = True
    subject.require_unchanged(after, before, own, "only gates of other heads were changed")

"""Laws of locality: D~[t, s] reads i[s] and f over s < k <= t of its own head, and nothing else."""

from __future__ import annotations

import numpy as np

from dmat.properties import needs
from dmat.strategies import Gates
from dmat.strategies.cases.dtilde import WINDOWS
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.kinds import BOTH, CHANGED, ENTRY
from dmat.testing.law.law import law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.require import require_kinds


@law(
    ENTRY,
    bound={DTILDE: (EQUAL_BITS, dtilde_bounds.forward_bound), FUSED: EQUAL_BITS},
    needs={DTILDE: (), FUSED: (needs.bits,)},
    kinds=BOTH,
)
def test_law_locality(subject: Subject, call: Case, head: tuple[int, int], t: int) -> None:
    """Change all that {D~[t, s] does not read, and it stays, bit for bit in window scope //
    o[t] does not read, later times and other heads, and it stays, bit for bit}.

    Why: Stray reads, wrong strides and heads, {rounding that depends on others: all change an entry from
        outside // a maximum over the whole row: all change it from outside}.
    Bound: zero{ for the window scope; else both bounds of section 3 // }.
    """
    keep, entries = subject.reach(call, head, t)
    before, after = subject.changed(call, keep)
    subject.require_unchanged(after, before, entries, "all it reads was kept, all else changed")


@law(
    CHANGED,
    bound={
        DTILDE: (EQUAL_BITS, dtilde_bounds.forward_bound),
        FUSED: (EQUAL_BITS, FusedBounds.output, DeltaBounds.output),
    },
    kinds=BOTH,
)
def test_law_causality(subject: Subject, call: Case, t: int) -> None:
    """Rows up to t do not read {the gates // what comes} after t.

    Why: A model that decodes step by step sees prefixes only{: its bits must not move with what comes
        later // }.
    Bound: zero{ for the window scope; else both bounds of section 3 //, or the bound of values where the
        contract says causal="bound"}.
    """
    keep = np.zeros(call["gates"].shape, dtype=bool)
    keep[..., : t + 1] = True
    before, after = subject.changed(call, keep)
    subject.require_unchanged(after, before, keep[..., None], "only later times were changed")


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_first_forget_gate(subject: DtildeSubject, gates: Gates, rival: Gates) -> None:
    """The first forget gate is in no window: f[0] changes nothing.

    Why: The first forget gate is in no window; whoever begins the sum at 0 instead of s + 1 reads it.
    Bound: zero for the window scope; else both bounds of section 3.
    """
    keep = np.ones(gates.shape, dtype=bool)
    keep_f = keep.copy()
    keep_f[..., 0] = False
    masks = {"igate_preact": keep, "fgate_preact": keep_f}
    before, after = subject.changed({"gates": gates, "rival": rival}, masks)
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


@law(
    CHANGED,
    bound={DTILDE: (EQUAL_BITS, dtilde_bounds.forward_bound), FUSED: EQUAL_BITS},
    needs={DTILDE: (), FUSED: (needs.determinism,)},
    kinds=BOTH,
)
def test_law_independence(subject: Subject, call: Case, head: tuple[int, int]) -> None:
    """A head of a batch reads {no gate // nothing} of another.

    Why: A wrong stride factor reads the neighbour's gates, and shows only if heads differ.
    Bound: zero{ for the window scope; else both bounds of section 3 // }.
    """
    keep = np.zeros(call["gates"].shape, dtype=bool)
    keep[head] = True
    before, after = subject.changed(call, keep)
    note, bits = "only other heads were changed", subject.exact_across_heads
    subject.require_unchanged(after, before, keep[..., None], note, bits=bits)

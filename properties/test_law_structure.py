"""Laws of structure: shape, mask, diagonal, exact integers, open and closed gates."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import Gates
from dmat.strategies.cases.dtilde import GATES, WINDOWS
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds import dtilde as dtilde_bounds
from dmat.testing.bounds.named import EQUAL_BITS, NO_BOUND
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.kinds import BOTH, FORWARD, INTEGERS
from dmat.testing.law.law import law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.require import require, require_exact, require_kinds, require_same, require_within


@law(
    INTEGERS,
    bound=EQUAL_BITS,
    needs={DTILDE: (needs.exact_sums,), FUSED: (needs.integers,)},
    kinds=BOTH,
)
def test_law_exact(subject: Subject, call: Case) -> None:
    """On integers {D~ is exact: with f <= -64 and multiples of 64, log sigmoid(f) = f and no sum rounds //
    the output is exact: gates open or closed for good, q, k, v of -1, 0 and 1}.

    Why: Every fault of mask, index, chunk or head shows on integers, with no tolerance at all.
    Bound: zero{ (section 4) //: E is 1 or 0 in any order of summation, and sums stay within 8 bits}.
    """
    run = subject.forward_on(subject.build(call))
    for name, exact in subject.exact_outputs(run).items():
        require_exact(run.of(name), exact)


@law(FORWARD, bound=NO_BOUND, kinds=BOTH)
def test_law_output_shape(subject: Subject, call: Case) -> None:
    """{D~ is (B, NH, S, S), of the dtype and device of the gates, for every length, 0 included //
    The output is (B, NH, S, V), of the dtype and on the device of v, for all lengths allowed}.

    Why: {Ragged and empty sequences are where launches crash and a wrong dtype hides //
        Wrong for one head, one time or no batch, a shape is broadcast in silence}.
    Bound: none.
    """
    # The call itself requires shape, dtype and device.
    for name, output in subject.forward_on(subject.build(call)).outputs.items():
        require(output.layout == torch.strided, name, output.layout, "a strided tensor", detail="layout")


@law(FORWARD, bound=EQUAL_BITS, kinds=BOTH)
def test_law_future(subject: Subject, call: Case) -> None:
    """The future is {-inf, whatever the gates hold: D~[t, s] = -inf for s > t //
    0, exactly: o[t] has nothing of v_s for s > t}.

    Why: {Whatever leaks from the future trains a model on its own answers; -1e30 is not -inf in a half
        type // What is masked by a small number, or after exp, leaks tomorrow into today}.
    Bound: zero.
    """
    inputs = subject.build(call)
    run = subject.forward_on(inputs)
    for name, exact in subject.future(inputs, run).items():
        require_exact(run.of(name), exact)


@law(GATES, bound=(EQUAL_BITS, dtilde_bounds.forward_bound))
def test_law_diagonal(subject: DtildeSubject, gates: Gates) -> None:
    """The diagonal is the input gate, bit for bit in window scope: D~[t, t] = i[t].

    Why: The diagonal's window is empty: any error there is an index or a mask, never rounding.
    Bound: zero where the scope is the window and sums are exact; else section 3, forward, with n = 0.
    """
    run = subject.forward(gates)
    diagonal = np.diagonal(run.dtilde, axis1=-2, axis2=-1)
    if subject.keeps_the_diagonal:
        subnormal = subject.may_flush(run.igate) & (diagonal == 0)
        require_same("D~ diagonal", diagonal, run.igate, ~subnormal)
    else:
        off = ~np.eye(run.igate.shape[-1], dtype=bool)
        require_within(run.dtilde, subject.expected_dtilde(run).freed(off))


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound), needs=(needs.special_value("+inf"),))
def test_law_open_gates(subject: DtildeSubject, gates: Gates, t: int, s: int) -> None:
    """Open gates keep: f = +inf over the window gives D~[t, s] = i[s], bit for bit in window scope.

    Why: A gate that is exactly open has l = 0: strict masks and inf - inf lose it.
    Bound: zero where the scope is the window; else section 3, forward.
    """
    igate, fgate = gates.dense()
    fgate[:, :, s + 1 : t + 1] = float("inf")
    run = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    inside = np.s_[:, :, s : t + 1, s : t + 1]
    if subject.keeps_the_diagonal:
        kept = np.broadcast_to(run.igate[..., None, s : t + 1], run.dtilde[inside].shape)
        subnormal = subject.may_flush(kept) & (run.dtilde[inside] == 0)
        past = np.broadcast_to(np.tri(t + 1 - s, dtype=bool), kept.shape)
        require_same("D~ of the open window", run.dtilde[inside], kept, past & ~subnormal)
    else:
        require_within(run.dtilde, subject.expected_dtilde(run))


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound), needs=(needs.special_value("-inf"),))
def test_law_closed_gates(subject: DtildeSubject, gates: Gates, head: tuple[int, int], t: int) -> None:
    """Closed gates reset: f[k] = -inf makes D~[t, s] = -inf across k, and touches nothing else.

    Why: A reset cuts the sequence; cumulative sums turn it into -inf - -inf, clamps let it leak.
    Bound: zero where the scope is the window; else section 3, forward.
    """
    igate, fgate = gates.dense()
    before = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    fgate[(*head, t)] = -float("inf")
    after = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    across = np.zeros(before.dtilde.shape, dtype=bool)
    across[(*head, slice(t, None), slice(None, t))] = True
    require_kinds(after.dtilde, subject.expected_dtilde(after).freed(~across))
    subject.require_unchanged(after, before, ~across, "not across the closed gate")


@law(WINDOWS, bound=(EQUAL_BITS, dtilde_bounds.forward_bound), needs=(needs.special_value("-inf"),))
def test_law_closed_input_gate(subject: DtildeSubject, gates: Gates, head: tuple[int, int], s: int) -> None:
    """A closed input gate closes its column, i[s] = -inf gives D~[t, s] = -inf, and nothing else.

    Why: Padding is written as i = -inf, and must close its own column alone.
    Bound: zero where the scope is the window; else section 3, forward.
    """
    igate, fgate = gates.dense()
    before = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    igate[(*head, s)] = -float("inf")
    after = subject.forward_of(*gates.lay_out(igate, fgate, subject.device))
    column = np.zeros(before.dtilde.shape, dtype=bool)
    column[(*head, slice(None), s)] = True
    require_kinds(after.dtilde, subject.expected_dtilde(after).freed(~column))
    subject.require_unchanged(after, before, ~column, "not the closed column")

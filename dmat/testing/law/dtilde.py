"""The subject of the laws of D~: a D~ kernel in a dtype on a device, and its expected values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import Format, Rounding
from dmat.testing.kernel.dtilde import GATES, GateTensors, Gradients, Run
from dmat.testing.law.dtilde_calls import DtildeCalls
from dmat.testing.law.subject import DETACHED
from dmat.testing.oracle.arithmetic import FINITE, FREE, Array, Mask
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.oracle.integers import integer_dtilde, integer_gradients
from dmat.testing.verdict.finding import Exact, Expected
from dmat.testing.verdict.require import require_agreement, require_within


@dataclass
class DtildeSubject(DtildeCalls):
    """A D~ kernel in a dtype on a device, as a law calls and judges it."""

    _latest: tuple[Array, Array, Backward] | None = field(default=None, init=False, repr=False, compare=False)

    # Rounding

    @cached_property
    def rounding(self) -> Rounding:
        """The rounding that the contract allows in this dtype."""
        contract = self.contract
        return Rounding(
            Format.of(self.dtype),
            Format.of(contract.accumulator(self.dtype)),
            contract.error_scope,
            contract.gates,
        )

    @property
    def exact_to_the_bit(self) -> bool:
        """Whether an entry depends on its window only, so that bits can be compared."""
        return self.contract.error_scope == "window" and self.contract.deterministic

    @property
    def keeps_the_diagonal(self) -> bool:
        """Whether the diagonal of D~ must equal the input gate bit for bit (docs/spec.md section 5)."""
        wide_enough = self.rounding.u_a <= self.rounding.u
        return self.contract.error_scope == "window" and self.contract.exact_sums and wide_enough

    def may_flush(self, values: Array) -> Mask:
        """Return where a load may flush a value to zero: subnormal values, in any dtype but float16."""
        flushes = self.dtype != "float16"
        return np.asarray((np.abs(values) < self.rounding.output.smallest_normal) & flushes)

    # Expected values

    def expected_outputs(self, run: Run, note: str = "") -> dict[str, Expected]:
        """Return the expected value of D~, by name."""
        return {"D~": self.expected_dtilde(run).noted(note)}

    def expected_dtilde(self, run: Run) -> Expected:
        """Return the expected value of D~ for the gates of this run."""
        truth = Forward.of(run.igate, run.fgate, wide=self.wide)
        bound = forward_bound(truth, self.rounding)
        return Expected("D~", truth.kind, truth.value, truth.slack, bound, truth.ball)

    def require_agreeing(self, after: Run, before: Run, where: Mask, note: str) -> None:
        """Require two runs to agree at `where`, within both bounds."""
        sides = ((run.dtilde, self.expected_dtilde(run).freed(~where)) for run in (after, before))
        (ours, expected), (theirs, other) = sides
        require_agreement(ours, expected, theirs, other, note)

    def backward(self, gradients: Gradients) -> Backward:
        """Return the true values of both gradients of this call. Those of the latest call are kept."""
        fgate, G = gradients.run.fgate, gradients.G
        if self._latest is None or self._latest[0] is not fgate or self._latest[1] is not G:
            self._latest = fgate, G, self.backward_of(fgate, G)
        return self._latest[2]

    def backward_of(self, fgate: Array, G: Array) -> Backward:
        """Return both true gradients for forget gates (B, NH, S) and a cotangent (B, NH, S, S)."""
        return Backward.of(
            fgate,
            G,
            masked_cotangent=self.contract.masked_cotangent,
            wide=self.wide,
        )

    def gradient_must_be(self, gradients: Gradients, name: str) -> Expected:
        """Return the expected value of one gate's gradient."""
        return self._expected_gradient(gradients, name, self.backward(gradients), self.rounding)

    def judged_gradients(self, call: Case) -> Sequence[str]:
        """Return the names of both gates: a D~ kernel's gradients are judged in every call."""
        return GATES

    def expected_gradients(
        self, gradients: Gradients, rounding: Rounding | None = None
    ) -> tuple[Expected, Expected]:
        """Return the expected values of di and df for the gates and the cotangent of this call.

        rounding: the rounding to allow; None for the contract's.
        """
        truth, rounding = self.backward(gradients), rounding or self.rounding
        di, df = (self._expected_gradient(gradients, name, truth, rounding) for name in GATES)
        return di, df

    def _expected_gradient(
        self, gradients: Gradients, name: str, truth: Backward, rounding: Rounding
    ) -> Expected:
        note, of_igate = DETACHED if gradients.detached else "", name == GATES[0]
        gate = gradients.run.igate if of_igate else gradients.run.fgate
        kind = np.where(np.isnan(gate), FREE, FINITE).astype(np.int8)
        if of_igate:
            bound = igate_gradient_bound(truth, rounding)
            return Expected("di", kind, truth.di, truth.di_slack, bound, truth.di_ball, note)
        bound = fgate_gradient_bound(truth, rounding)
        return Expected("df", kind, truth.df, truth.df_slack, bound, truth.df_ball, note)

    def require_gradients(self, gradients: Gradients) -> None:
        """Require both gradients of this call to be within their bounds."""
        di, df = self.expected_gradients(gradients)
        require_within(gradients.di, di)
        require_within(gradients.df, df)

    # Values to the bit, and entries that a call may not change

    @property
    def exact_across_heads(self) -> bool:
        """Whether the bits of a head may not change with other heads: where no bits may change at all."""
        return self.exact_to_the_bit

    def reach(self, call: Case, head: tuple[int, int], t: int) -> tuple[Mapping[str, Mask], Mask]:
        """Return what D~[t, s] reads, i[s] and f over s < k <= t, and the entries D~[s, s] to D~[t, s]."""
        shape, s = call["gates"].shape, call["s"]
        keep_i, keep_f = (np.zeros(shape, dtype=bool) for _ in range(2))
        keep_i[(*head, s)] = True
        keep_f[(*head, slice(s + 1, t + 1))] = True
        unread = np.zeros((*shape, shape[-1]), dtype=bool)
        unread[(*head, slice(s, t + 1), s)] = True
        return dict(zip(GATES, (keep_i, keep_f), strict=True)), unread

    def future(self, inputs: GateTensors, run: Run) -> dict[str, Exact]:
        """Return the future of D~: -inf above the diagonal."""
        dtilde = run.dtilde
        future = np.broadcast_to(~np.tri(dtilde.shape[-1], dtype=bool), dtilde.shape)
        return {"D~": Exact("D~", np.full_like(dtilde, -np.inf), future, "the future of row t")}

    def exact_outputs(self, run: Run) -> dict[str, Exact]:
        """Return the exact D~ for integer gates: no sum of integers rounds."""
        return {"D~": Exact("D~", integer_dtilde(run.igate, run.fgate))}

    def exact_gradients(self, gradients: Gradients) -> dict[str, Exact]:
        """Return the exact di and df for integer cotangents: no sum of integers rounds."""
        both = integer_gradients(gradients.run.fgate, gradients.G)
        return {name: Exact(self.gradient_name(name), value) for name, value in zip(GATES, both, strict=True)}

    def first_gradient(self, gradients: Gradients) -> Exact | None:
        """Return df[0] = 0 in window scope, unless f[0] is NaN; None for every other scope."""
        if self.contract.error_scope != "window":
            return None
        first = ~np.isnan(gradients.run.fgate)
        first[..., 1:] = False
        return Exact("df", np.zeros_like(gradients.df), first, "no window holds it")

    def lent(self, inputs: GateTensors, cotangent: Tensor) -> dict[str, Tensor]:
        """Return both gates and the cotangent G."""
        return {**inputs.named, "G": cotangent}

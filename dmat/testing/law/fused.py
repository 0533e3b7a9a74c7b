"""The subject of the laws of fused kernels: a kernel in a dtype on a device, and its expected values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flint import arb
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dmat.strategies.recipes.qkv import QKV, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.formats import Bound, FusedRounding, flushes_halves
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.heads import of_heads
from dmat.testing.contract import FusedContract
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import NAMES, FusedGradients, FusedRun, Inputs
from dmat.testing.law.fused_calls import FusedCalls
from dmat.testing.law.fused_integers import exact_output, is_held, sums_fit
from dmat.testing.law.latest import Latest
from dmat.testing.law.subject import DETACHED
from dmat.testing.oracle.arithmetic import FINITE, Array, Mask, single
from dmat.testing.oracle.decays import Decays
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.oracle.fused_balls import CallBalls
from dmat.testing.oracle.fused_inputs import CallInputs, Turns
from dmat.testing.verdict.finding import Exact, Expected
from dmat.testing.verdict.require import require_within


@dataclass
class FusedSubject(FusedCalls):
    """A fused kernel in a dtype on a device, as a law calls and judges it."""

    # Rounding, and what can be judged

    @cached_property
    def latest(self) -> Latest:
        """The true values and bounds of the latest call."""
        return Latest(Truth, FusedBounds, Pulled)

    @cached_property
    def rounding(self) -> FusedRounding:
        """The formats that the kernel rounds to in this dtype."""
        return FusedRounding.of(self.contract, self.dtype, flushes=flushes_halves(self.device))

    def judged_gradients(self, call: Case) -> list[str]:
        """Return the inputs whose gradients can be judged with one-hot q, k, v; none if undefined here."""
        taken = [name for name, is_taken in self._taken.items() if is_taken]
        return self.distinct_values(taken) if self.defines_gradients(call["qkv"]) else []

    @property
    def _taken(self) -> dict[str, bool]:
        """Whether the kernel takes each input."""
        gates = {"i": self.contract.igate, "g": self.contract.gate != "fixed"}
        gates |= {"b": self.contract.erases, "s": False}  # one-hot recipes begin with no state
        gates |= {name: name in self.contract.parameters for name in PARAMETERS} | {"z": self.contract.z}
        return {name: gates.get(name, True) for name in NAMES}

    def distinct_values(self, names: Iterable[str]) -> list[str]:
        """Return the inputs of `names` whose gradients can be judged with one-hot q, k, v.

        Not v in log space: the gradient of a v of 0 is no number.
        """
        return [name for name in names if name != "v" or not self.contract.positive]

    def defines_gradients(self, qkv: QKV) -> bool:
        """Return whether the contract defines the gradients for these q, k, v.

        Truncated gradients are defined only where the normaliser is 1.
        """
        return self.contract.gradient == "full" or not self.reads.truncates or qkv.regime == "small"

    # Expected values

    def truth(self, call_inputs: CallInputs) -> Any:
        """Return the true values of a call."""
        with np.errstate(all="ignore"):
            return self.latest.truth(self.contract, call_inputs)

    def bounds_under(self, truth: Any, contract: FusedContract, rounding: FusedRounding) -> Any:
        """Return the bounds of true values under a contract and rounding."""
        return self.latest.bounds(truth, contract, rounding)

    @property
    def own_rounding(self) -> FusedRounding:
        """The formats that a call rounds to."""
        return self.rounding

    @cached_property
    def handed(self) -> str | None:
        """The coarsest format in a state that the kernel returns; None if a state has no such tensor."""
        inputs = self.inputs(self.plainest, plain_qkv(self.domain, self.plainest.shape[-1]))
        return coarsest(self.unrecorded().call_with_state(inputs, None)[1])

    def true_gradients(self, run: FusedRun, cotangents: Mapping[str, Array]) -> tuple[Any, Any]:
        """Return the true gradients of a call for the cotangents of its outputs, and their bounds."""
        truth, rounding = self.truth(run.inputs), self.own_rounding
        if run.inputs.crossing.any():
            rounding = self.rounding.handing_over(self.handed)
        bounds = self.bounds_under(truth, self.contract, rounding)
        return self.latest.pulled(truth, *self.pulled_with(truth, run, cotangents)), bounds

    def pulled_with(self, truth: Any, run: FusedRun, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Return the cotangents as the class of gradients takes them."""
        return (cotangents["o"],)

    def pull_going_on(self, inputs: Inputs, qkv: QKV, begins: tuple[int, ...]) -> FusedGradients:
        """Call the kernel in turn, each time from the last state; pull the cotangents back through all calls.

        Where no gradients flow through states, only the last call is pulled back: the true gradients are
        those of one call on all times, with a cotangent of 0 before it.
        """
        call_inputs, cut = self.read_inputs(inputs, begins), begins[-1]
        if self.contract.state_gradients:
            return self.pull_of(inputs, qkv, call_inputs=call_inputs)
        before = self.read_inputs(inputs.part(0, cut), begins[:-1])
        _, states = self.called_in_turn(inputs.part(0, cut), {str(self.contract.states): inputs.s}, before)
        W, behind = self.cotangent(inputs, qkv), inputs.part(cut, inputs.v.shape[2])
        more, alone = {str(self.contract.states): states[-1]}, replace(call_inputs, begins=(0,))
        gradients = self.pull_of(behind, qkv, W=W[:, :, cut:], call_inputs=alone, more=more)
        whole = np.array(self.read(W))
        whole[:, :, :cut] = 0.0
        truth, rounding = self.truth(call_inputs), self.rounding.handing_over(coarsest(states))
        pulled = self.latest.pulled(truth, *self.pulled_with(truth, gradients.run, {"o": whole}))
        bounds = self.bounds_under(truth, self.contract, rounding)
        return replace(gradients, W=whole, pulled=pulled, bounds=bounds)

    def first_pulled(self, begins: tuple[int, ...]) -> int:
        """Return the first time at which the gradients of `pull_going_on` are judged."""
        return 0 if self.contract.state_gradients else begins[-1]

    def require_last_state(self, state: object, call_inputs: CallInputs) -> None:
        """Require nothing: only a delta rule's states are known."""

    def require_last_states(self, state: object, inputs: Inputs, turns: Turns) -> None:
        """Require nothing: only a delta rule's states are known."""

    def scaled(self, once: FusedRun, twice: FusedRun) -> dict[str, Mask]:
        """Return where the outputs for 2 v must be twice those for v, by name."""
        rounding = self.rounding
        expected = self.expected(twice)
        bounds = self.bounds_under(self.truth(twice.inputs), self.contract, rounding)
        normal = max(x.smallest_normal for x in (rounding.output, rounding.accumulator, rounding.operands))
        size, S = np.abs(once.o), once.o.shape[2]
        # In a stabilised kernel o e^-m is subnormal before o is.
        least = (S + 4) * 64 * normal * bounds.grown * np.maximum(1.0, np.abs(bounds.truth.after.silu))
        enough = (size >= least) & (2 * size <= rounding.output.largest)
        return {"o": enough & ~expected.bound.overflow & ~expected.bound.free}

    def expected_outputs(self, run: FusedRun, note: str = "") -> dict[str, Expected]:
        """Return the expected value of the output, by name."""
        return {"o": self.expected(run, note)}

    def expected(self, run: FusedRun, note: str = "") -> Expected:
        """Return the expected output of this call."""
        return self.expected_of(run.inputs, note)

    def expected_of(self, call_inputs: CallInputs, note: str = "", *, state: object = None) -> Expected:
        """Return the expected output for these inputs. state: the state that was handed over, or None."""
        rounding = self.rounding.handing_over(coarsest(state))
        return self.output_of(self.truth(call_inputs), self.contract, rounding, note)

    def output_of(
        self, truth: Truth, contract: FusedContract, rounding: FusedRounding, note: str = ""
    ) -> Expected:
        """Return the expected output under this contract and rounding."""
        balls = CallBalls(truth.contract, truth.inputs)
        with np.errstate(all="ignore"):
            bound = self.bounds_under(truth, contract, rounding).output()
            kind = np.full(truth.o.shape, FINITE, dtype=np.int8)
            decays = Decays.of(truth)
            return Expected("o", kind, single(truth.o), truth.o_slack, bound, balls.o, note, decays)

    def gradient_must_be(self, gradients: FusedGradients, name: str) -> Expected:
        """Return the expected value of one input's gradient."""
        return self.expected_gradient(gradients, name)

    def expected_gradient(self, gradients: FusedGradients, name: str, note: str = "") -> Expected:
        """Return the expected gradient of one input of this call."""
        note = DETACHED if gradients.detached else note
        return self.gradient_of(gradients.pulled, name, gradients.bounds, note)

    def gradient_of(self, pulled: Pulled, name: str, bounds: FusedBounds, note: str = "") -> Expected:
        """Return the expected gradient of one input, with these bounds."""
        balls = CallBalls(pulled.truth.contract, pulled.truth.inputs, pulled.W)

        def ball(index: tuple[int, ...]) -> arb:
            return balls.gradient(name, index)

        with np.errstate(all="ignore"):
            if name in PARAMETERS:
                bound, value = bounds.parameter(name, pulled), pulled.parameters[name]
            elif name in ("g", "i"):
                bound = bounds.gate(pulled) if name == "g" else bounds.igate(pulled)
                value = pulled.dgate if name == "g" else pulled.di
            else:
                bound, value = bounds.product(name, pulled), getattr(pulled, f"d{name}")
            return self.within(self.gradient_name(name), value, bound, ball, note)

    def within(
        self, name: str, value: Array, bound: Bound, ball: Callable[[tuple[int, ...]], arb], note: str
    ) -> Expected:
        """Return a result that is expected within this bound, far above the error of the float64 filter.

        It is not so for a kernel that accumulates in float64: there the slack is the bound, and balls judge
        every entry.
        """
        slack = bound.bound if self.wide else 2.0**-20 * bound.bound + 2.0**-1060
        kind = np.full(value.shape, FINITE, dtype=np.int8)
        return Expected(name, kind, single(value), slack, bound, ball, note)

    # Values to the bit, and entries that a call may not change

    @property
    def exact_to_the_bit(self) -> bool:
        """Whether rows do not depend on later ones, so that bits can be compared."""
        return self.contract.causal == "bits" and self.contract.deterministic

    @property
    def exact_across_heads(self) -> bool:
        """Whether the bits of a head may not change with other heads: in every contract."""
        return True

    def require_agreeing(self, after: FusedRun, before: FusedRun, where: Mask, note: str) -> None:
        """Require the later run to be within its bound at `where`."""
        require_within(after.o, self.expected(after, note).freed(~where))

    def require_unchanged(
        self, after: Any, before: Any, where: Mask, note: str, *, bits: bool = False
    ) -> None:
        """Require two runs to agree at `where`. where: (B, NH, S, 1), NH counts the heads of q and k."""
        own = self.head_form(1).repeated(where)
        super().require_unchanged(after, before, own, note, bits=bits)

    def reach(self, call: Case, head: tuple[int, int], t: int) -> tuple[Mapping[str, Mask], Mask]:
        """Return what o[t] reads, all inputs of its head up to t, and the output up to t."""
        keep = np.zeros(call["gates"].shape, dtype=bool)
        keep[(*head, slice(0, t + 1))] = True
        return dict.fromkeys(NAMES, keep), keep[..., None]

    def future(self, inputs: Inputs, run: FusedRun) -> dict[str, Exact]:
        """Return the future of o: 0 in a column before its one source. None in log space: its 0 is e^-300."""
        later = np.zeros(run.o.shape[-2:], dtype=bool)
        for s, c in enumerate(() if self.contract.positive else inputs.column):
            if c >= 0:
                later[:s, c] = True
        where = np.broadcast_to(later, run.o.shape) & np.isfinite(run.o)
        note = "column c is that of a later source alone"
        return {"o": Exact("o", np.zeros_like(run.o), where, note)}

    def exact_outputs(self, run: FusedRun) -> dict[str, Exact]:
        """Return the output for integers, where sums stay within 8 bits."""
        value, where = exact_output(self.truth(run.inputs), self.rounding, run.output.dtype)
        return {"o": Exact("o", value, where)}

    def exact_gradients(self, gradients: FusedGradients) -> dict[str, Exact]:
        """Return the gradients of log gates and input gates for integers, where the formats hold the sums."""
        pulled, fits = gradients.pulled, sums_fit(gradients.pulled, self.rounding)
        exact = {"g": pulled.dgate} if self.contract.gate == "log" else {}
        exact |= {"i": pulled.di} if self.contract.igate else {}
        held = {name: is_held(value, gradients.tensors[name].dtype) for name, value in exact.items()}
        there = {name: held[name] & of_heads(fits, x) for name, x in exact.items()}
        return {name: Exact(self.gradient_name(name), x, there[name]) for name, x in exact.items()}

    def first_gradient(self, gradients: FusedGradients) -> Exact | None:
        """Return 0 at the first forget gate if gradients sum the rectangle alone; else None.

        None for an operator with a normaliser, or weighted by -l, too.
        """
        plain = self.contract.weight is None and not self.reads.normalised
        if self.contract.widest_gradient != "rectangle" or not plain:
            return None
        zeros = np.zeros_like(gradients.of("g"))
        first = np.zeros(zeros.shape, dtype=bool)
        first[:, :, :1] = True
        return Exact(self.gradient_name("g"), zeros, first, "no window holds it")

    def lent(self, inputs: Inputs, cotangent: Tensor) -> dict[str, Tensor]:
        """Return the cotangent W. The law `inputs_untouched` watches the inputs, in the backward call too."""
        return {"W": cotangent}


def coarsest(state: object) -> str | None:
    """Return the coarsest floating-point dtype in a state; None if the state contains no such tensor."""
    dtypes = {x.dtype for x in tree_leaves(state) if isinstance(x, Tensor) and x.is_floating_point()}
    coarse = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)
    return None if coarse is None else str(coarse).removeprefix("torch.")

"""The subject of the laws of delta rules: true values, bounds, and what every right kernel has to the bit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb
from torch import Tensor

from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.formats import Format, FusedRounding, format_of
from dmat.testing.bounds.heads import of_heads
from dmat.testing.contract import FusedContract
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import LAST, FusedGradients, FusedRun, Inputs, as_bhkv
from dmat.testing.law.delta.calls import DeltaCalls
from dmat.testing.law.delta.exact import Admissible
from dmat.testing.law.fused import coarsest
from dmat.testing.law.latest import Latest
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.delta import DeltaPulled, DeltaTruth
from dmat.testing.oracle.delta_balls import DeltaBalls
from dmat.testing.oracle.fused_inputs import CallInputs, Turns
from dmat.testing.oracle.reads import ZERO
from dmat.testing.verdict.finding import Exact, Expected
from dmat.testing.verdict.require import require_same, require_within

LARGEST_EPS = 1e-4  # beside 64^2 nothing in float32


@dataclass
class DeltaSubject(DeltaCalls):
    """A delta rule in a dtype on a device, as a law calls and judges it."""

    # True values and bounds

    @cached_property
    def latest(self) -> Latest:
        """The true values and bounds of the latest call."""
        return Latest(DeltaTruth, DeltaBounds, DeltaPulled)

    @property
    def own_rounding(self) -> FusedRounding:
        """The formats that the kernel rounds to, its state's among them."""
        form = self.state_form
        return self.rounding.handing_over(None if form is None else str(form.dtype).removeprefix("torch."))

    def bounds_under(self, truth: Any, contract: FusedContract, rounding: FusedRounding) -> Any:
        """Return the bounds of true values under a contract and rounding."""
        inverse = format_of(contract.inverts(self.dtype))
        narrower = inverse.u if inverse.u > rounding.u_a else 0.0
        return self.latest.bounds(truth, contract, rounding, narrower)

    def pulled_with(self, truth: Any, run: FusedRun, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Return the cotangent of the output, and that of the last state, zeros if it is not judged."""
        if LAST not in cotangents:
            return cotangents["o"], np.zeros_like(truth.first)
        return cotangents["o"], as_bhkv(cotangents[LAST], run.state_layout)

    # Expected values

    def expected_outputs(self, run: FusedRun, note: str = "") -> dict[str, Expected]:
        """Return the expected values of the output and of the last state, by name."""
        expected = {"o": self.expected(run, note)}
        if run.state is not None:
            expected[LAST] = self.expected_state(run.inputs, note)
        return expected

    def expected_of(self, call_inputs: CallInputs, note: str = "", *, state: object = None) -> Expected:
        """Return the expected output for these inputs. state: the state that was handed over, or None."""
        return self.output_of(self.truth(call_inputs), self.contract, self._rounding_with(state), note)

    def _rounding_with(self, state: object) -> FusedRounding:
        """Return the formats where this state was handed over; the kernel's own for None."""
        return self.own_rounding if state is None else self.rounding.handing_over(coarsest(state))

    def expected_state(self, call_inputs: CallInputs, note: str = "", *, state: object = None) -> Expected:
        """Return the expected last state for these inputs. state: the state that was handed over, or None."""
        truth = self.truth(call_inputs)
        bounds = self.bounds_under(truth, self.contract, self._rounding_with(state))
        return self.within(LAST, truth.last, bounds.state(), _Heads(truth).last, note)

    def output_of(
        self, truth: Any, contract: FusedContract, rounding: FusedRounding, note: str = ""
    ) -> Expected:
        """Return the expected output under this contract and rounding."""
        bound = self.bounds_under(truth, contract, rounding).output()
        return self.within("o", truth.o, bound, _Heads(truth).o, note)

    def gradient_of(self, pulled: Any, name: str, bounds: Any, note: str = "") -> Expected:
        """Return the expected gradient of one input, with these bounds."""
        assert isinstance(pulled, DeltaPulled)
        assert isinstance(bounds, DeltaBounds)
        with np.errstate(all="ignore"):
            way = {"g": bounds.gate, "b": bounds.beta, "s": bounds.first_state}
            other = bounds.parameter if name in PARAMETERS else bounds.product
            bound = way[name](pulled) if name in way else other(name, pulled)
        ball = _Heads(pulled.truth, pulled).gradient(name)
        return self.within(self.gradient_name(name), pulled.gradients[name], bound, ball, note)

    def require_last_state(self, state: object, call_inputs: CallInputs) -> None:
        """Require the last state of two calls to be within its bound. state: that of the second call."""
        if self.state_form is not None and isinstance(state, Tensor):
            expected = self.expected_state(call_inputs, "the state of the call after the cut", state=state)
            computed = as_bhkv(self.read(state), self.state_form.layout)
            self.observe(require_within(computed, expected))

    def require_last_states(self, state: object, inputs: Inputs, turns: Turns) -> None:
        """Require the state of each packed sequence after its last call: each in its row of `state`."""
        if (form := self.state_form) is None:
            return
        spans = [(first[0], last[1]) for first, last in zip(turns[0], turns[-1], strict=True)]
        rows = inputs.with_(v=inputs.v.expand(len(spans), *inputs.v.shape[1:]))
        computed = as_bhkv(self.read(self._require_state([state], form, rows)), form.layout)
        for row, (start, end) in enumerate(spans):
            begins = dict.fromkeys(spans_[row][0] - start for spans_ in turns if spans_[row][0] < end)
            call_inputs = self.read_inputs(inputs.part(start, end), tuple(begins))
            note = f"the last state of packed sequence {row}, in its row of the states that came back"
            expected = self.expected_state(call_inputs, note, state=state) if start < end else None
            if expected is not None:
                self.observe(require_within(computed[row : row + 1], expected))

    # Values to the bit

    def _exact(self, inputs: CallInputs) -> DeltaBounds | None:
        """Return bounds whose truth adds nothing to |k|^2; None if the kernel's sum of the two is inexact.

        Keys that the kernel normalises are of norm 64: 64^2 + eps is 64^2 in float32, not in float64.
        """
        contract, eps = self.contract, self.contract.l2norm
        if eps and (self.wide or eps > LARGEST_EPS):
            return None
        plain = contract if eps is False else replace(contract, l2norm=0.0)
        with np.errstate(all="ignore"):
            bounds: DeltaBounds = self.bounds_under(DeltaTruth(plain, inputs), plain, self.own_rounding)
            return bounds

    def exact_outputs(self, run: FusedRun) -> dict[str, Exact]:
        """Return output and last state of the heads that no right kernel rounds."""
        bounds = self._exact(run.inputs)
        if bounds is None:
            return {}
        truth = bounds.truth
        heads = Admissible(bounds, self._inverse_form).forward().heads
        values = {"o": truth.o} if run.state is None else {"o": truth.o, LAST: truth.last}
        return {name: Exact(name, x, _everywhere(heads, x)) for name, x in values.items()}

    @property
    def _inverse_form(self) -> Format:
        return format_of(self.contract.inverts(self.dtype))

    def exact_gradients(self, gradients: FusedGradients) -> dict[str, Exact]:
        """Return the gradients of the heads that no right kernel rounds."""
        bounds = self._exact(gradients.run.inputs)
        if bounds is None:
            return {}
        pulled = DeltaPulled(bounds.truth, gradients.W, gradients.pulled.W_state)
        heads = Admissible(bounds, self._inverse_form).backward(pulled).heads
        names = [name for name in gradients.tensors if name not in PARAMETERS]
        names = [name for name in names if name != "g" or self.contract.gate == "log"]
        values = {name: pulled.gradients[name] for name in names}
        of_keys = bounds.truth.inputs.heads.gathered(heads, np.all)
        where = {name: _everywhere(of_keys if name in "qk" else heads, x) for name, x in values.items()}
        return {name: Exact(self.gradient_name(name), x, where[name]) for name, x in values.items()}

    # Comparisons of two calls

    def scaled(self, once: FusedRun, twice: FusedRun) -> dict[str, Mask]:
        """Return where the results for 2 v and 2 S_0 must be twice those for v and S_0, by name.

        There, no result is subnormal, and all that is lost on the way is below the last bit of the result.
        What the call on 2 v loses is no less than what the call on v does. A result of the smallest normal
        number may have been a subnormal one before it was rounded.
        """
        rounding, where = self.own_rounding, {}
        bounds = self.bounds_under(self.truth(twice.inputs), self.contract, rounding)
        ways = (rounding.output, rounding.accumulator, rounding.operands, rounding.handed)
        normal, largest = max(x.smallest_normal for x in ways), min(x.largest for x in ways)
        with np.errstate(all="ignore"):
            least = np.maximum(bounds.lost / min(x.u for x in ways), normal)
        for name, expected in self.expected_outputs(twice).items():
            size = np.abs(once.of(name))
            enough = (size > of_heads(least, size)) & (2 * size <= largest)
            where[name] = enough & ~expected.bound.overflow & ~expected.bound.free
        return where

    def require_unchanged(
        self, after: Any, before: Any, where: Mask, note: str, *, bits: bool = False
    ) -> None:
        """Require two runs to agree at `where`, and last states of heads in which all rows are kept."""
        where = self.head_form(1).repeated(where)
        heads = np.asarray(np.broadcast_to(where, before.o.shape).all((-1, -2)))
        for name in after.outputs:
            there = where if name == "o" else heads[..., None, None]
            there = np.broadcast_to(there, before.of(name).shape)
            if self.exact_to_the_bit or bits:
                require_same(name, after.of(name), before.of(name), there, note)
            elif name == "o":
                self.require_agreeing(after, before, there, note)


class _Heads:
    """The balls of the heads of one call, made when they are first asked for."""

    def __init__(self, truth: DeltaTruth, pulled: DeltaPulled | None = None) -> None:
        @functools.cache
        def head(b: int, h: int) -> DeltaBalls:
            given = (None, None) if pulled is None else (pulled.W[b, h], pulled.W_state[b, h])
            return DeltaBalls(truth.contract, truth.inputs, b, h, *given)

        self._head, self._form = head, truth.inputs.heads
        self._batches, heads = truth.inputs.q.shape[:2]
        self._key_heads = heads // self._form.group

    def o(self, index: tuple[int, ...]) -> arb:
        b, h, t, c = index
        return self._head(b, h).o(t, c)

    def last(self, index: tuple[int, ...]) -> arb:
        b, h, d, c = index
        return self._head(b, h).last(d, c)

    def gradient(self, name: str) -> Callable[[tuple[int, ...]], arb]:
        def of_key(index: tuple[int, ...]) -> arb:
            b, h, *place = index
            members = self._form.members(h, self._key_heads)
            return sum((self._head(b, member).gradient(name, tuple(place)) for member in members), ZERO)

        def of_parameter(index: tuple[int, ...]) -> arb:
            _, h, d = index
            return sum((self._head(b, h).of_parameter(name, d) for b in range(self._batches)), ZERO)

        if name in ("q", "k"):
            return of_key
        if name in PARAMETERS:
            return of_parameter
        return lambda index: self._head(*index[:2]).gradient(name, index[2:])


def _everywhere(heads: Mask, x: Array) -> Mask:
    """Return the heads as a mask of the entries of x, (B, NH, ...)."""
    return np.broadcast_to(heads.reshape(*heads.shape, *(1,) * (x.ndim - 2)), x.shape)

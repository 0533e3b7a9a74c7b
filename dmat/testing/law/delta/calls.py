"""The calls of a delta rule that laws make: beta and a state go in, and the last state comes out.

A state is judged only if its layout is known: the contract states it, or a call of one token shows it.
An opaque state is only handed on from the kernel's own first call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.layouts import lay_out
from dmat.strategies.recipes.qkv import QKV, DeltaQKV, Products, plain_qkv
from dmat.testing.kernel.call import NAN
from dmat.testing.kernel.fused import LAST, FusedRun, Inputs, as_bhkv
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import Finding, LawBroken, as_array

OPENED = 1024.0  # a pre-activation at which nothing decays


@dataclass(frozen=True)
class StateForm:
    """The layout of a kernel's states, "BHKV" or "BHVK", and their dtype."""

    layout: str
    dtype: torch.dtype

    def shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Return the shape of a state of a call on these inputs."""
        K, (B, NH, _, V) = inputs.q.shape[-1], inputs.v.shape
        return (B, NH, K, V) if self.layout == "BHKV" else (B, NH, V, K)


@dataclass
class DeltaCalls(FusedSubject):
    """A delta rule in a dtype on a device, as a law calls it."""

    doubled: ClassVar[str] = "qv"  # twice a key would no longer contract a state

    # The state

    @cached_property
    def state_form(self) -> StateForm | None:
        """The form of the kernel's states; None if it has none, or an opaque one."""
        if self.contract.states is None or self.contract.state_layout == "opaque":
            return None
        inputs = self._one_token()
        _, state = self.unrecorded().call_with_state(inputs, None)
        if not isinstance(state, Tensor) or not state.is_floating_point():
            return None
        layout = self.contract.state_layout or _layout_of(as_array(state), inputs)
        return None if layout is None else StateForm(layout, state.dtype)

    def _one_token(self) -> Inputs:
        """Build a call of one head whose first token writes v = e_1 (of the last column) at k = e_0."""
        S, most = self.domain.all_lengths[0], self.domain.scales[-1][0]
        V = self.domain.value_size(most + 1, most)
        gates = Gates(self.domain.dtype, (1, 1, S), Constant(0.0), Constant(self._open))
        q, k, group = np.ones((1, 1, S, most)), np.zeros((1, 1, S, most)), self.contract.group
        v, beta = np.zeros((1, group, S, V)), np.zeros((1, group, S))
        k[..., 0], v[..., 0, -1], beta[..., 0] = 1.0, 1.0, 1.0
        qkv = plain_qkv(self.domain, S, "dense")
        products = Products(q, k, v, np.full(S, -1), beta)
        igate, fgate = gates.lay_out(*self.gates_of(gates, most), self.device, NAN)
        return self.inputs_of(qkv, products, igate, fgate)

    @property
    def _open(self) -> float:
        if self.contract.from_preact:
            return min(OPENED, self.domain.most)
        return 0.0

    # Inputs

    def inputs_of(
        self, qkv: QKV, products: Products, igate: Tensor, fgate: Tensor, poison: float = NAN
    ) -> Inputs:
        """Build the tensors of a call: beta too, and the recipe's state if the form of states is known."""
        inputs = super().inputs_of(qkv, products, igate, fgate, poison)
        assert products.beta is not None
        dtype = getattr(torch, self.contract.gates_in(self.dtype))
        given = self._logits(products.beta) if self.contract.beta_in == "logit" else products.beta
        beta = torch.from_numpy(given[..., None]).to(self.device, dtype)
        state = None
        if products.state is not None and (form := self.state_form) is not None:
            state = torch.from_numpy(as_bhkv(products.state, form.layout).copy())
            state = state.to(self.device, form.dtype)
        return replace(inputs, b=lay_out(beta, qkv.layouts[0], poison), s=state)

    def _logits(self, beta: Array) -> Array:
        """Return b, beta = beta_max sigmoid(b): from -16 to 16, and further where beta is 0 or beta_max."""
        part = beta / self.contract.beta_max
        inner = np.clip(part, 1e-300, 1 - 2.0**-53)
        logit = np.clip(np.log(inner) - np.log1p(-inner), -16.0, 16.0)
        return np.where(part == 0, -OPENED, np.where(part == 1, OPENED, logit))

    def read_inputs(
        self, inputs: Inputs, begins: tuple[int, ...] = (0,), *, packed: bool = False
    ) -> CallInputs:
        """Return the exact values of the inputs of a call."""
        plain = super().read_inputs(inputs, begins, packed=packed)
        assert inputs.b is not None
        state = None
        if inputs.s is not None and (form := self.state_form) is not None:
            state = as_bhkv(self.read(inputs.s), form.layout)
        return replace(plain, beta=self.read(inputs.b)[..., 0], state=state)

    def other_values(self, name: str, random: np.random.Generator, x: Tensor) -> Array:
        """Draw other values of an input: keys and beta under which a state does not grow."""
        low, high = {"b": (0.0, 1.0), "k": (-1.0, 1.0)}.get(name, (-2.0, 2.0))
        over = np.sqrt(x.shape[-1]) if name == "k" else 1.0
        return random.uniform(low, high, size=tuple(x.shape)) / over

    # Calls

    def _called(self, inputs: Inputs, more: dict[str, object]) -> tuple[Tensor, tuple[object, ...]]:
        """Call the kernel with its state, None at the start, unless it reads packed sequences."""
        name = self.contract.states
        if name is not None and name not in more and self.contract.packed not in more:
            more = {**more, name: inputs.s}
        return super()._called(replace(inputs, s=None), more)

    def outputs_of(
        self, inputs: Inputs, more: Mapping[str, object], call_inputs: CallInputs
    ) -> dict[str, Tensor]:
        """Call the kernel; return its output, and its last state if that is judged.

        Where call_inputs has several calls, each begins with the state that the one before it returned.
        """
        if self.contract.packed in more or call_inputs.packed:
            return {"o": self.called_in_turn(inputs, more, call_inputs)[0]}
        output, states = self.called_in_turn(inputs, more, call_inputs)
        if (form := self.state_form) is None:
            return {"o": output}
        return {"o": output, LAST: self._require_state(states, form, inputs)}

    def _require_state(self, states: Sequence[object], form: StateForm, inputs: Inputs) -> Tensor:
        """Return the last state. Raises LawBroken for a wrong shape, dtype or device."""
        wanted = (form.shape(inputs), form.dtype, inputs.v.device)
        state = states[-1] if states else None
        if isinstance(state, Tensor) and (tuple(state.shape), state.dtype, state.device) == wanted:
            return state
        found = f"a {type(state).__name__}"
        if isinstance(state, Tensor):
            found = f"a {state.dtype} tensor {tuple(state.shape)} on {state.device}"
        exact = f"a {wanted[1]} tensor {wanted[0]} on {wanted[2]}"
        raise LawBroken(Finding(LAST, (), found, exact, what="shape"))

    def run_from(self, call_inputs: CallInputs, outputs: Mapping[str, Tensor]) -> FusedRun:
        """Return the forward call that had these inputs and these outputs."""
        layout = "BHKV" if self.state_form is None else self.state_form.layout
        return FusedRun(call_inputs, outputs["o"], self.read, outputs.get(LAST), layout)

    def cotangents_of(
        self, outputs: Mapping[str, Tensor], inputs: Inputs, qkv: QKV, W: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the cotangent of each output, by name. W: that of o; if None, the recipe gives it."""
        cotangents = super().cotangents_of(outputs, inputs, qkv, W)
        if LAST not in outputs:
            return cotangents
        form = self.state_form
        assert form is not None
        K, (B, NH, _, V) = inputs.q.shape[-1], inputs.v.shape
        dense = as_bhkv(cast(DeltaQKV, qkv).cotangent_of_state((B, NH, K, V)), form.layout)
        return {**cotangents, LAST: torch.from_numpy(dense.copy()).to(outputs[LAST])}

    def stand_in(self) -> Callable[..., object]:
        """Return a function whose result is zeros that depend on all inputs."""
        states, layout = self.contract.states, self.contract.state_layout or "BHKV"
        dtype = getattr(torch, self.contract.returns(self.dtype))

        def zeros(*tensors: Tensor, **more: object) -> object:
            given = [*tensors, *(x for x in more.values() if isinstance(x, Tensor))]
            none: Tensor = sum((x.double().sum() for x in given), torch.zeros((), device=tensors[2].device))
            q, v = tensors[0], tensors[2]
            o = (0 * none + 0 * v.double()).to(dtype)
            heads, (K, V) = (
                (v if self.contract.layout == "BHSD" else v.transpose(1, 2)),
                (q.shape[-1], v.shape[-1]),
            )
            shape = (*heads.shape[:2], *((K, V) if layout == "BHKV" else (V, K)))
            return (o, (0 * none).float().expand(shape).clone()) if states in more else o

        return zeros


def _layout_of(state: Array, inputs: Inputs) -> str | None:
    """Return the layout of a state, "BHKV" or "BHVK", or None if its shape is of neither.

    The shape tells the layout, unless K = V. Then the place of the one token that was written tells it: row 0
    and the last column, or the last row and column 0.
    """
    K, (_, NH, _, V) = inputs.q.shape[-1], inputs.v.shape
    if K == V and state.shape == (1, NH, K, V):
        return "BHVK" if state[0, 0, -1, 0] != 0 and K > 1 else "BHKV"
    return {(1, NH, K, V): "BHKV", (1, NH, V, K): "BHVK"}.get(state.shape)

"""The calls of a fused kernel that laws make: the inputs they build, forward calls, and pullbacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.devices import lacks
from dmat.testing.errors import UNCALLABLE
from dmat.testing.kernel.call import NAN, called, pulled
from dmat.testing.kernel.fused import NAMES, NOTHING, FusedGradients, FusedRun, Inputs, arranged, per_time
from dmat.testing.law.fused_inputs import FusedTurns
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import Finding, LawBroken


@dataclass
class FusedCalls(FusedTurns):
    """A fused kernel in a dtype on a device, as a law calls it."""

    # Calls by name

    doubled: ClassVar[str] = "qkv"  # the inputs that `overwrite` doubles

    @property
    def gates(self) -> tuple[str, str]:
        """The input names of the input gate and the forget gate."""
        return "i", "g"

    def build(self, call: Case, poison: float = NAN) -> Inputs:
        """Build the inputs."""
        return self.inputs(call["gates"], call["qkv"], poison)

    def overwrite(self, inputs: Inputs, rival: Gates) -> None:
        """Overwrite the gates in place with those of `rival`, and double q, k and v."""
        rivals = self.gates_of(rival, inputs.q.shape[-1])
        for x, other in zip((inputs.i, inputs.g), rivals, strict=True):
            if x is not None:
                x.copy_(other)
        for name in self.doubled:
            inputs.named[name].mul_(2)

    def forward_on(self, inputs: Inputs) -> FusedRun:
        """Call the kernel."""
        return self.run_of(inputs)

    def cotangent_of(self, inputs: Inputs, call: Case, poison: float = NAN) -> Tensor:
        """Build the cotangent of the output, (B, NH, S, V). poison: not used."""
        return self.cotangent(inputs, call["qkv"])

    def pull_on(
        self,
        inputs: Inputs,
        call: Case,
        *,
        poison: float = NAN,
        times: int = 1,
        cotangent: Tensor | None = None,
    ) -> list[FusedGradients]:
        """Call the kernel once, and pull the cotangent back `times` times through its graph."""
        needed = NAMES if self.contract.has_gradients else ()
        return self.pulls_of(inputs, call["qkv"], needed, times=times, W=cotangent)

    def changed(self, call: Case, keep: Mask | Mapping[str, Mask]) -> tuple[FusedRun, FusedRun]:
        """Call on the inputs, and on inputs that agree with them just in `keep`; shapes and strides alike.

        Keys and queries stay as they are if v is positive.
        """
        before, after = self.build(call), self.build(call)
        random = np.random.default_rng(call["noise"])
        form = self.head_form(before.q.shape[-1])
        other = dict(zip("ig", self.gates_of(call["rival"], before.q.shape[-1]), strict=True))
        for name, x in after.named.items():
            if name in PARAMETERS:
                continue
            if name in other:
                values = other[name].to(x.device)
            elif name != "v" and self.contract.positive:
                continue
            else:
                values = torch.from_numpy(self.other_values(name, random, x)).to(x.device, x.dtype)
            own = keep[name] if isinstance(keep, Mapping) else keep
            own = own if name in ("q", "k") else form.repeated(own)
            kept = torch.from_numpy(own)[..., None]
            x[...] = torch.where(kept.to(x.device), x, values)
        return self.run_of(before), self.run_of(after)

    def other_values(self, name: str, random: np.random.Generator, x: Tensor) -> Array:
        """Draw other values of an input, in its shape."""
        return random.uniform(0.5 if self.contract.positive else -2.0, 2.0, size=tuple(x.shape))

    def name_of(self, name: str) -> str:
        """Return the name of an input in findings."""
        return self.letters[name]

    def gradient_name(self, name: str) -> str:
        """Return the name of a gradient in findings."""
        return f"d{self.letters[name]}"

    # The cases, and the smoke call

    @property
    def plainest(self) -> Gates:
        """The gates of the smoke call: zeros, one head, the shortest sequence."""
        return Gates(self.domain.dtype, (1, 1, self.domain.all_lengths[0]))

    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, with values that occur in no small case if allowed.

        The values are clamped to the ranges of the contract.
        """
        low, high = self.contract.i_range
        igate = Constant(max(low, min(high, -2.75)) if self.contract.igate else 0.0)
        most = max(self.domain.least, min(self.domain.most, -1.375))
        return Gates(
            gates.dtype, gates.shape, igate, Constant(0.0 if self.contract.gate == "fixed" else most)
        )

    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return the output for these gates and the q, k, v of the case, or plain ones if it has none."""
        qkv = case.get("qkv") or plain_qkv(self.domain, gates.shape[-1])
        return self.call_fused(self.inputs(gates, qkv))

    def answer_to_zeros(self, S: int) -> Tensor:
        """Return the output for gates of zeros and plain q, k, v. All inputs require gradients."""
        inputs = self.inputs(Gates(self.domain.dtype, (1, 1, S)), plain_qkv(self.domain, S))
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.named.items()}
        return self.call_fused(inputs.with_(**leaves))

    def stand_in(self) -> Callable[..., object]:
        """Return a function whose result is zeros that depend on all inputs."""
        states, dtype = self.contract.states, getattr(torch, self.contract.returns(self.dtype))

        def zeros(*tensors: Tensor, **more: object) -> object:
            none: Tensor = sum((x.double().sum() for x in tensors), torch.zeros((), device=tensors[2].device))
            o = (0 * none + 0 * tensors[2].double()).to(dtype)
            return (o, o.detach()) if states in more else o

        return zeros

    @cached_property
    def uncallable(self) -> str | None:
        """Why a smoke call fails, in one line, or None. Promised states and packed ends are called too."""
        if reason := lacks(self.dtype, self.device):
            return reason
        gates = self.plainest
        S = gates.shape[-1]
        inputs = self.inputs(gates, plain_qkv(self.domain, S))
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in self._shown_inputs(inputs).items())
        calls = ["nothing more"]
        calls += [f"{self.contract.states}=None, then its state"] if self.contract.states else []
        calls += [f"{self.contract.packed}=[0, {S}]"] if self.contract.packed else []
        calls += [f"{self.contract.mask}=True"] if self.contract.mask else []
        for call in calls:
            try:
                if call.startswith("nothing"):
                    self.call_fused(inputs)
                elif self.contract.mask and call.startswith(f"{self.contract.mask}="):
                    mask = torch.ones(inputs.v.shape[0], S, dtype=torch.bool, device=self.device)
                    self.call_fused(inputs, **{self.contract.mask: mask})
                elif self.contract.packed and call.startswith(self.contract.packed):
                    self.call_packed(inputs, (0, S))
                else:
                    _, state = self.call_with_state(inputs, None)
                    self.call_with_state(inputs, state)
            except LawBroken as broken:
                found = broken.finding
                why = found.computed if found.what == "raised" else f"gives {found.computed}"
                wanted = "" if found.what == "raised" else f", expected {found.exact}"
                unpromised = "if it is not promised: state K, V, lengths, dtypes, layout"
                where = f"{shapes}, {self.dtype} on {self.device}"
                return f"{UNCALLABLE}zeros, {where}, with {call}: {why}{wanted}; {unpromised}"
        return None

    def _shown_inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        tensors = zip(inputs.named, self.arguments(inputs), strict=True)
        return {self.letters[name]: x for name, x in tensors}

    # Forward calls

    def call_fused(self, inputs: Inputs, **more: object) -> Tensor:
        """Call the kernel; return its output, (B, NH, S, V). more: keyword arguments of the call.

        Raises LawBroken if the kernel raises, or if its output is not a tensor of the promised shape and
        dtype on the device of v.
        """
        return self._called(inputs, more)[0]

    def call_with_state(self, inputs: Inputs, state: object, **more: object) -> tuple[Tensor, object]:
        """Call the kernel with a state, None at the start; return its output and the next state.

        more: further keyword arguments of the call.
        """
        assert self.contract.states
        output, rest = self._called(inputs, {self.contract.states: state, **more})
        return output, self._next_state(rest)

    def call_packed(self, inputs: Inputs, ends: Sequence[int]) -> Tensor:
        """Call the kernel on packed sequences that end at `ends`."""
        return self.call_fused(inputs, **self.ending(ends))

    def _called(self, inputs: Inputs, more: dict[str, object]) -> tuple[Tensor, tuple[object, ...]]:
        arguments, more = self.arguments(inputs), self._with_copy(more)
        axes = self.contract.layout, self.per_time
        self.recorder.call_fused(self.callee, inputs.named, self.letters, *axes, more)
        returned = called("o", self.implementation.function, arguments, more)
        first, *rest = returned if isinstance(returned, tuple | list) and returned else (returned,)
        output = self._require_output(first, inputs)
        self.recorder.returned_fused(first, rest)
        if rest and self.contract.states in more:
            self._require_dtype_of(rest[0])
        return output, tuple(rest)

    def arguments(self, inputs: Inputs) -> list[Tensor]:
        """Return the tensors in the layout that the kernel takes."""
        layout, flat = self.contract.layout, self.per_time
        return [arranged(x, layout, flat=name in flat) for name, x in inputs.named.items()]

    @property
    def per_time(self) -> tuple[str, ...]:
        """The inputs that have one number a time and head."""
        return per_time(self.contract.by_channel)

    def _require_output(self, found: object, inputs: Inputs) -> Tensor:
        """Return the output as (B, NH, S, V). Raises LawBroken for a wrong shape, dtype or device."""
        B, NH, S, V = inputs.v.shape
        shape = (B, NH, S, V) if self.contract.layout == "BHSD" else (B, S, NH, V)
        dtype = getattr(torch, self.contract.returns(self.dtype))
        wanted = f"a {dtype} tensor {shape} on {inputs.v.device}"
        if not isinstance(found, Tensor):
            raise LawBroken(Finding("o", (), f"a {type(found).__name__}", wanted, what="shape"))
        if (tuple(found.shape), found.dtype, found.device) != (shape, dtype, inputs.v.device):
            distinct_values = f"a {found.dtype} tensor {tuple(found.shape)} on {found.device}"
            raise LawBroken(Finding("o", (), distinct_values, wanted, what="shape"))
        return found if self.contract.layout == "BHSD" else found.transpose(1, 2)

    def run(self, gates: Gates, qkv: QKV) -> FusedRun:
        """Build the recipes' tensors and call the kernel on them."""
        return self.run_of(self.inputs(gates, qkv))

    def run_of(self, inputs: Inputs) -> FusedRun:
        """Call the kernel on these inputs."""
        call_inputs = self.read_inputs(inputs)
        return self.run_from(call_inputs, self.outputs_of(inputs, NOTHING, call_inputs))

    def outputs_of(
        self, inputs: Inputs, more: Mapping[str, object], call_inputs: CallInputs
    ) -> dict[str, Tensor]:
        """Call the kernel, in turn if there are several calls; return its outputs by name.

        more: keyword arguments of the first call.
        """
        return {"o": self.called_in_turn(inputs, more, call_inputs)[0]}

    def run_from(self, call_inputs: CallInputs, outputs: Mapping[str, Tensor]) -> FusedRun:
        """Return the forward call that had these inputs and these outputs."""
        return FusedRun(call_inputs, outputs["o"], self.read)

    # Pullbacks

    def pull(self, gates: Gates, qkv: QKV, needed: Sequence[str] = NAMES) -> FusedGradients:
        """Call the kernel and pull the recipe's cotangent back through it."""
        return self.pull_of(self.inputs(gates, qkv), qkv, needed)

    def pull_of(
        self,
        inputs: Inputs,
        qkv: QKV,
        needed: Sequence[str] = NAMES,
        *,
        W: Tensor | None = None,
        call_inputs: CallInputs | None = None,
        more: Mapping[str, object] = NOTHING,
    ) -> FusedGradients:
        """Call the kernel on these inputs, and pull the cotangent back once."""
        return self.pulls_of(inputs, qkv, needed, W=W, call_inputs=call_inputs, more=more)[0]

    def pulls_of(
        self,
        inputs: Inputs,
        qkv: QKV,
        needed: Sequence[str] = NAMES,
        *,
        times: int = 1,
        W: Tensor | None = None,
        call_inputs: CallInputs | None = None,
        more: Mapping[str, object] = NOTHING,
    ) -> list[FusedGradients]:
        """Call the kernel once on these inputs, and pull the cotangent back `times` times through its graph.

        needed: the inputs that require a gradient; the gradient of any other input is zero. W: the cotangent;
        None for the qkv recipe's. more: keyword arguments of the call. call_inputs: the exact values of the
        inputs, with a handed-over state or packed ends; None for those of a plain call.
        """
        call_inputs, named = call_inputs or self.read_inputs(inputs), inputs.named
        leaves = {name: x.detach().requires_grad_(name in needed) for name, x in named.items()}
        self.recorder.fused_leaves(named, leaves, self.letters)
        outputs = self.outputs_of(inputs.with_(**leaves), more, call_inputs)
        if not self.contract.state_gradients:
            outputs = {"o": outputs["o"]}
        given = self.cotangents_of(outputs, inputs, qkv, W)
        cotangents = {name: self.read(x) for name, x in given.items()}  # a backward may overwrite them
        copies = {name: x.detach() for name, x in outputs.items()}
        for name, x in outputs.items():
            self.recorder.detached(x, copies[name])
        both = {name: (x, given[name]) for name, x in outputs.items()}
        every = [self._pulled(both, leaves, needed, retain=left > 0) for left in reversed(range(times))]
        detached = not any(x.requires_grad for x in outputs.values())
        run = self.run_from(call_inputs, copies)
        true, bounds = self.true_gradients(run, cotangents)
        return [FusedGradients(run, cotangents["o"], tensors, detached, true, bounds) for tensors in every]

    def cotangents_of(
        self, outputs: Mapping[str, Tensor], inputs: Inputs, qkv: QKV, W: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the cotangent of each output, by name. W: that of o; if None, the recipe gives it."""
        return {"o": self.cotangent(inputs, qkv) if W is None else W}

    def pull_packed(
        self, inputs: Inputs, qkv: QKV, call_inputs: CallInputs, ends: Sequence[int]
    ) -> FusedGradients:
        """Call the kernel on packed sequences, and pull the recipe's cotangent back."""
        return self.pull_of(inputs, qkv, call_inputs=call_inputs, more=self.ending(ends))

    def _pulled(
        self,
        outputs: dict[str, tuple[Tensor, Tensor]],
        leaves: dict[str, Tensor],
        needed: Sequence[str],
        *,
        retain: bool,
    ) -> dict[str, Tensor]:
        asked = {name: leaf for name, leaf in leaves.items() if name in needed}
        self.recorder.pull_fused(outputs, asked, self.letters, self.contract.layout, retain=retain)
        found = pulled(outputs, asked, retain=retain)
        result = {}
        for name, leaf in leaves.items():
            gradient = found.get(name)
            result[name] = torch.zeros_like(leaf) if gradient is None else gradient
        self.recorder.pulled_fused([result[name] for name in asked])
        return result

    @abstractmethod
    def true_gradients(self, run: FusedRun, cotangents: Mapping[str, Array]) -> tuple[Any, Any]:
        """Return the true gradients of a call, and their bounds. cotangents: those of its outputs."""

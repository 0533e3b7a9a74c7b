"""One fused kernel, one dtype, one device: how a law calls it, and what it must then be compared to."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from flint import arb
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dmat.strategies.gates import Gates
from dmat.strategies.layouts import lay_out
from dmat.strategies.probe_domain import ProbeDomain
from dmat.strategies.probes import Places, Probe, Products, plain_probe
from dmat.strategies.recipe import Case
from dmat.strategies.values import Constant, rounded
from dmat.testing.contract import FusedContract
from dmat.testing.exact import FINITE, Array
from dmat.testing.readout.balls import HeadBalls
from dmat.testing.readout.bounds import FusedBounds, FusedRounding
from dmat.testing.readout.decays import Decays
from dmat.testing.readout.seen import Seen
from dmat.testing.readout.truth import Pulled, Truth, single
from dmat.testing.subject import DETACHED, Subject, raised
from dmat.testing.verdict import Expected, Finding, LawBroken, as_array

BALLS = {"g": "dgate", "i": "di", "q": "dq", "k": "dk", "v": "dv"}
NOTHING: Mapping[str, object] = MappingProxyType({})
NAMES = ("q", "k", "v", "i", "g")  # how a call's tensors are named; "g" is l or f, as the contract has it


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call: q, k (B, NH, S, K), v (B, NH, S, V), i, g (B, NH, S, 1), None if not taken."""

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor | None
    g: Tensor | None
    column: Places = field(repr=False, compare=False)

    @property
    def named(self) -> dict[str, Tensor]:
        """Return those that there are, in the order of the call."""
        return {name: x for name in NAMES if (x := getattr(self, name)) is not None}

    def part(self, start: int, end: int) -> Inputs:
        """Return the same for these times alone."""
        cut = {name: x[:, :, start:end] for name, x in self.named.items()}
        return replace(self, **cut)  # type: ignore[arg-type]  # only tensors are named

    def with_(self, **tensors: Tensor | None) -> Inputs:
        """Return the same with other tensors."""
        return replace(self, **tensors)  # type: ignore[arg-type]  # only tensors are named


@dataclass(frozen=True)
class FusedRun:
    """One forward call: the inputs it saw, exactly, and the output that it returned, (B, NH, S, V)."""

    seen: Seen
    output: Tensor

    @cached_property
    def o(self) -> Array:
        """The output as float64."""
        return as_array(self.output)


@dataclass(frozen=True)
class FusedGradients:
    """One backward call: the cotangent W that it saw, and the gradient of each input, by name, float64.

    i, g: (B, NH, S). q, k, v: as they are. detached: the output asked for no gradient, so all are zeros.
    pulled, bounds: what the gradients must be, and how far they may be off, reckoned when they are asked for.
    """

    run: FusedRun
    W: Array
    tensors: dict[str, Tensor]
    detached: bool
    pulled: Pulled
    bounds: FusedBounds

    def of(self, name: str) -> Array:
        """Return one of them."""
        gradient = as_array(self.tensors[name])
        return gradient[..., 0] if name in ("i", "g") else gradient


@dataclass
class FusedSubject(Subject):
    """What a law of fused kernels sees."""

    @property
    def fused(self) -> FusedContract:
        """The contract, as what it is."""
        return cast(FusedContract, self.implementation.contract)

    @cached_property
    def domain(self) -> ProbeDomain:
        """What the strategies may draw for it."""
        contract, dtype = self.fused, self.dtype
        formats = {"dtype": contract.gates_in(dtype), "accumulator": contract.accumulator(dtype)}
        return ProbeDomain.of(contract, contract=contract, products_dtype=dtype, **formats)

    @cached_property
    def fused_rounding(self) -> FusedRounding:
        """The formats that it rounds to."""
        return FusedRounding.of(self.fused, self.dtype)

    @property
    def plainest(self) -> Gates:
        """The gates of the plainest call there is: zeros, one head, the shortest sequence."""
        return Gates(self.domain.dtype, (1, 1, self.domain.all_lengths[0]))

    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, of values that no small case has, if any may be."""
        low, high = self.fused.i_range
        igate = Constant(max(low, min(high, -2.75)) if self.fused.igate else 0.0)
        most = max(self.domain.least, min(self.domain.most, -1.375))
        return Gates(gates.dtype, gates.shape, igate, Constant(0.0 if self.fused.gate == "fixed" else most))

    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return what the kernel gives for these gates, and all else as in the case."""
        probe = case.get("probe") or plain_probe(self.domain, gates.shape[-1])
        return self.call_fused(self.inputs(gates, probe))

    def answer_to_zeros(self, S: int) -> Tensor:
        """Return what the kernel gives for gates of zeros that ask for gradients, as all else does."""
        inputs = self.inputs(Gates(self.domain.dtype, (1, 1, S)), plain_probe(self.domain, S))
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.named.items()}
        return self.call_fused(inputs.with_(**leaves))

    @cached_property
    def uncallable(self) -> str | None:
        """Why the plainest calls there are, with each keyword that is promised, cannot be made; or None."""
        gates = self.plainest
        S = gates.shape[-1]
        inputs = self.inputs(gates, plain_probe(self.domain, S))
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in self._told(inputs).items())
        calls = ["nothing more"]
        calls += [f"{self.fused.states}=None, then its state"] if self.fused.states else []
        calls += [f"{self.fused.packed}=[0, {S}]"] if self.fused.packed else []
        for call in calls:
            try:
                if call.startswith("nothing"):
                    self.call_fused(inputs)
                elif self.fused.packed and call.startswith(self.fused.packed):
                    self.call_packed(inputs, (0, S))
                else:
                    _, state = self.call_with_state(inputs, None)
                    self.call_with_state(inputs, state)
            except LawBroken as broken:
                found = broken.finding
                why = found.computed if found.what == "raised" else f"gives {found.computed}"
                wanted = "" if found.what == "raised" else f", expected {found.exact}"
                unpromised = "if it is not promised: state K, V, lengths, dtypes, layout"
                return f"a call on zeros, {shapes}, with {call}, {why}{wanted} ({unpromised})"
        return None

    def _told(self, inputs: Inputs) -> dict[str, Tensor]:
        tensors = zip(inputs.named, self.arguments(inputs), strict=True)
        return {self.letters[name]: x for name, x in tensors}

    # Calls

    def inputs(self, gates: Gates, probe: Probe, filler: float = float("nan")) -> Inputs:
        """Build the tensors of a call, each in its layout."""
        products = probe.build(gates, self.domain)
        return self.inputs_of(gates, probe, products, *gates.build(self.device, filler), filler)

    def inputs_of(
        self,
        gates: Gates,
        probe: Probe,
        products: Products,
        igate: Tensor,
        fgate: Tensor,
        filler: float = float("nan"),
    ) -> Inputs:
        """Build the tensors of a call of these gates, (B, NH, S, 1)."""
        dtype = getattr(torch, self.dtype)
        q, k, v = (
            lay_out(rounded(x, dtype).to(self.device), layout, filler)
            for x, layout in zip((products.q, products.k, products.v), probe.layouts, strict=True)
        )
        fixed = self.fused.gate == "fixed"
        return Inputs(q, k, v, igate if self.fused.igate else None, None if fixed else fgate, products.column)

    def seen(self, inputs: Inputs, begins: tuple[int, ...] = (0,), *, packed: bool = False) -> Seen:
        """Return what a call with these inputs sees."""
        q, k, v = (as_array(x) for x in (inputs.q, inputs.k, inputs.v))
        zeros = np.zeros(q.shape[:3])
        igate = zeros if inputs.i is None else as_array(inputs.i)[..., 0]
        fgate = self._fixed(zeros) if inputs.g is None else as_array(inputs.g)[..., 0]
        return Seen(q, k, v, igate, fgate, begins, packed)

    def _fixed(self, zeros: Array) -> Array:
        assert self.fused.fixed is not None
        log = np.asarray(torch.as_tensor(self.fused.fixed(zeros.shape[1])).double(), dtype=np.float64)
        return zeros + log[None, :, None]

    def call_fused(self, inputs: Inputs, **more: object) -> Tensor:
        """Call the kernel; return its output, (B, NH, S, V).

        Raises LawBroken where it raises, or returns no tensor of that shape, of the dtype promised.
        """
        return self._called(inputs, more)[0]

    def call_with_state(self, inputs: Inputs, state: object) -> tuple[Tensor, object]:
        """Call the kernel on a state, None for none yet; return its output and the next state."""
        assert self.fused.states
        output, rest = self._called(inputs, {self.fused.states: state})
        if not rest:
            raise LawBroken(Finding("state", (), "no state beside o", "(o, state)", what="shape"))
        return output, rest[0]

    def call_packed(self, inputs: Inputs, ends: Sequence[int]) -> Tensor:
        """Call the kernel on sequences packed one behind another, that end there."""
        return self.call_fused(inputs, **self._ending(ends))

    def _ending(self, ends: Sequence[int]) -> dict[str, object]:
        """Return the keyword that says where packed sequences end."""
        assert self.fused.packed
        return {self.fused.packed: torch.tensor(list(ends), dtype=torch.int64, device=self.device)}

    def _called(self, inputs: Inputs, more: dict[str, object]) -> tuple[Tensor, tuple[object, ...]]:
        arguments = self.arguments(inputs)
        name = ""
        if self.transcript:
            name = self.transcript.call_fused(
                self.callee, inputs.named, self.letters, self.fused.layout, more
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                returned = self.implementation.function(*arguments, **more)
        except (Exception, SystemExit) as error:  # whatever a user's kernel may raise
            raise LawBroken(raised("o", error)) from error
        first, *rest = returned if isinstance(returned, tuple | list) and returned else (returned,)
        output = self._require_output(first, inputs)
        if self.transcript:
            self.transcript.returned_fused(name, first, tuple(rest))
        return output, tuple(rest)

    def arguments(self, inputs: Inputs) -> list[Tensor]:
        """Return the tensors as the kernel takes them."""
        return [arranged(x, name, self.fused.layout) for name, x in inputs.named.items()]

    def _require_output(self, found: object, inputs: Inputs) -> Tensor:
        """Return the output as (B, NH, S, V)."""
        B, NH, S, V = inputs.v.shape
        shape = (B, NH, S, V) if self.fused.layout == "BHSD" else (B, S, NH, V)
        dtype = getattr(torch, self.fused.returns(self.dtype))
        wanted = f"a {dtype} tensor {shape} on {inputs.v.device}"
        if not isinstance(found, Tensor):
            raise LawBroken(Finding("o", (), f"a {type(found).__name__}", wanted, what="shape"))
        if (tuple(found.shape), found.dtype, found.device) != (shape, dtype, inputs.v.device):
            told = f"a {found.dtype} tensor {tuple(found.shape)} on {found.device}"
            raise LawBroken(Finding("o", (), told, wanted, what="shape"))
        return found if self.fused.layout == "BHSD" else found.transpose(1, 2)

    def run(self, gates: Gates, probe: Probe) -> FusedRun:
        """Build the recipes' tensors and call the kernel on them."""
        return self.run_of(self.inputs(gates, probe))

    def run_of(self, inputs: Inputs) -> FusedRun:
        """Call the kernel on these inputs."""
        return FusedRun(self.seen(inputs), self.call_fused(inputs))

    def pull(self, gates: Gates, probe: Probe, needed: Sequence[str] = NAMES) -> FusedGradients:
        """Call the kernel and pull the probe's cotangent back through it."""
        return self.pull_of(self.inputs(gates, probe), probe, needed)

    def cotangent(self, inputs: Inputs, probe: Probe) -> Tensor:
        """Build the probe's cotangent of the output of these inputs, (B, NH, S, V)."""
        dtype = getattr(torch, self.fused.returns(self.dtype))
        dense = torch.from_numpy(probe.cotangent(tuple(inputs.v.shape))).to(self.device, dtype)
        return lay_out(dense, probe.pull_layout) if probe.pull_layout else dense

    def pull_of(
        self,
        inputs: Inputs,
        probe: Probe,
        needed: Sequence[str] = NAMES,
        *,
        times: int = 1,
        W: Tensor | None = None,
        seen: Seen | None = None,
        more: Mapping[str, object] = NOTHING,
    ) -> FusedGradients:
        """Call the kernel on these inputs, pull the cotangent back; `times` through one graph, the last kept.

        needed: the inputs that ask for a gradient; that of any other is zero. W: the cotangent, else the
        probe's. more: keywords of the call, and seen: what it sees with them.
        """
        seen, named = seen or self.seen(inputs), inputs.named
        leaves = {name: x.detach().requires_grad_(name in needed) for name, x in named.items()}
        if self.transcript:
            self.transcript.fused_leaves(named, leaves, self.letters)
        output = self.call_fused(inputs.with_(**leaves), **more)
        tensor = self.cotangent(inputs, probe) if W is None else W
        seen_W = as_array(tensor)  # a backward may overwrite it
        run = FusedRun(seen, output.detach())
        if self.transcript:
            self.transcript.stands_for(self.transcript.name(output, ""), run.output, given=False)
        pulled: dict[str, Tensor] = {}
        for left in reversed(range(times)):
            pulled = self._pulled(output, leaves, tensor, needed, retain=left > 0)
        truth = self.truth(seen)
        bounds = FusedBounds(truth, self.fused, self.fused_rounding)
        detached = not output.requires_grad
        return FusedGradients(run, seen_W, pulled, detached, Pulled(truth, seen_W), bounds)

    def pull_packed(self, inputs: Inputs, probe: Probe, seen: Seen, ends: Sequence[int]) -> FusedGradients:
        """Call the kernel on packed sequences, and pull the probe's cotangent back."""
        return self.pull_of(inputs, probe, seen=seen, more=self._ending(ends))

    def pull_going_on(self, inputs: Inputs, probe: Probe, cut: int) -> FusedGradients:
        """Call the kernel up to a cut, then from there on its state, and pull the cotangent back to there.

        The truth is that of all times, with a cotangent of 0 before the cut.
        """
        assert self.fused.states
        _, state = self.call_with_state(inputs.part(0, cut), None)
        W = self.cotangent(inputs, probe)
        behind, seen = inputs.part(cut, inputs.v.shape[2]), self.seen(inputs, (0, cut))
        gradients = self.pull_of(behind, probe, W=W[:, :, cut:], seen=seen, more={self.fused.states: state})
        whole = as_array(W).copy()
        whole[:, :, :cut] = 0.0
        rounding = self.fused_rounding.handing_over(coarsest(state))
        bounds = FusedBounds(gradients.pulled.truth, self.fused, rounding)
        return replace(gradients, W=whole, pulled=Pulled(gradients.pulled.truth, whole), bounds=bounds)

    def _pulled(
        self,
        output: Tensor,
        leaves: dict[str, Tensor],
        W: Tensor,
        needed: Sequence[str],
        *,
        retain: bool,
    ) -> dict[str, Tensor]:
        asked = [name for name in leaves if name in needed]
        found: dict[str, Tensor | None] = dict.fromkeys(leaves)
        names: list[str] = []
        if self.transcript:
            of = {name: leaves[name] for name in asked}
            names = self.transcript.pull_fused(output, of, W, self.letters, self.fused.layout, retain=retain)
        if output.requires_grad and asked:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    gradients = torch.autograd.grad(
                        output, [leaves[n] for n in asked], W, retain_graph=retain, allow_unused=True
                    )
            except (Exception, SystemExit) as error:  # whatever a user's backward may raise
                raise LawBroken(raised("gradients", error)) from error
            found |= dict(zip(asked, gradients, strict=True))
        result = {}
        for name, leaf in leaves.items():
            gradient = found[name]
            result[name] = torch.zeros_like(leaf) if gradient is None else gradient
        if self.transcript:
            for name, written in zip(asked, names, strict=True):
                self.transcript.returned(written, result[name])
        return result

    # What must come out

    def truth(self, seen: Seen) -> Truth:
        """Return what is true of a call."""
        with np.errstate(all="ignore"):
            return Truth(self.fused, seen)

    def expected(self, run: FusedRun, note: str = "") -> Expected:
        """Return what the output of this call must be."""
        return self.expected_of(run.seen, note)

    def expected_of(self, seen: Seen, note: str = "", *, state: object = None) -> Expected:
        """Return what the output must be for these inputs; state: what was handed over, if anything was."""
        rounding = self.fused_rounding.handing_over(coarsest(state))
        return self.output_of(self.truth(seen), self.fused, rounding, note)

    def output_of(
        self, truth: Truth, contract: FusedContract, rounding: FusedRounding, note: str = ""
    ) -> Expected:
        """Return what the output must be under this contract."""
        heads = _heads(truth, None)

        def ball(index: tuple[int, ...]) -> arb:
            b, h, t, c = index
            return heads(b, h).o(t, c)

        with np.errstate(all="ignore"):
            bound = FusedBounds(truth, contract, rounding).output()
            kind = np.full(truth.o.shape, FINITE, dtype=np.int8)
            decays = Decays.of(truth)
            return Expected("o", kind, single(truth.o), truth.o_slack, bound, ball, note, decays)

    def expected_gradient(self, gradients: FusedGradients, name: str, note: str = "") -> Expected:
        """Return what the gradient of one input of this call must be."""
        note = DETACHED if gradients.detached else note
        return self.gradient_of(gradients.pulled, name, gradients.bounds, note)

    def gradient_of(self, pulled: Pulled, name: str, bounds: FusedBounds, note: str = "") -> Expected:
        """Return what the gradient of one input must be within these bounds."""
        heads = _heads(pulled.truth, pulled.W)

        def ball(index: tuple[int, ...]) -> arb:
            b, h, *place = index
            enclosed: arb = getattr(heads(b, h), BALLS[name])(*place)
            return enclosed

        with np.errstate(all="ignore"):
            if name in ("g", "i"):
                bound = bounds.gate(pulled) if name == "g" else bounds.igate(pulled)
                value = pulled.dgate if name == "g" else pulled.di
            else:
                bound, value = bounds.product(name, pulled), getattr(pulled, f"d{name}")
            # The filter's own error is far below what is allowed, except of float64, where all are balls.
            slack = bound.bound if self.wide else 2.0**-20 * bound.bound + 2.0**-1060
            kind = np.full(value.shape, FINITE, dtype=np.int8)
            return Expected(self.gradient_name(name), kind, single(value), slack, bound, ball, note)

    def gradient_name(self, name: str) -> str:
        """Return the name of a gradient, as findings have it."""
        return f"d{self.letters[name]}"

    @property
    def letters(self) -> dict[str, str]:
        """What each tensor of a call is called."""
        return dict(
            zip(NAMES, ("q", "k", "v", "i", "f" if self.fused.gate == "preact" else "l"), strict=True)
        )

    @property
    def wide(self) -> bool:
        """Whether float64 is too coarse an oracle for it."""
        return self.contract.accumulator(self.dtype) == "float64"


def _heads(truth: Truth, W: Array | None) -> Callable[[int, int], HeadBalls]:
    """Return the balls of each head of a call, made when they are asked for."""

    @functools.cache
    def heads(b: int, h: int) -> HeadBalls:
        return HeadBalls(truth.contract, truth.seen, b, h, None if W is None else W[b, h])

    return heads


def coarsest(state: object) -> str | None:
    """Return the coarsest format that a state holds numbers in; None where no tensor is found in it."""
    dtypes = {x.dtype for x in tree_leaves(state) if isinstance(x, Tensor) and x.is_floating_point()}
    coarse = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)
    return None if coarse is None else str(coarse).removeprefix("torch.")


def arranged(x: Tensor, name: str, layout: str) -> Tensor:
    """Show a tensor (B, NH, S, n) in the kernel's axes; a gate, n = 1, without its last."""
    flat = x.squeeze(-1) if name in ("i", "g") else x
    if layout == "BHSD":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if x.is_contiguous() else swapped

"""One implementation, one dtype, one device: how a law calls it and what it must then be compared to."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.cotangents import Cotangent
from dmat.strategies.domain import Domain
from dmat.strategies.gates import Gates
from dmat.strategies.recipe import Case
from dmat.strategies.values import Constant
from dmat.testing.bounds import (
    Format,
    Rounding,
    fgate_gradient_bound,
    forward_bound,
    igate_gradient_bound,
)
from dmat.testing.contract import DEVICES, AnyContract, Contract, contract_of
from dmat.testing.exact import FINITE, FREE, Array, Backward, Forward, Mask
from dmat.testing.processes import NotEnded, died_of
from dmat.testing.transcript import Transcript
from dmat.testing.verdict import (
    Expected,
    Finding,
    LawBroken,
    as_array,
    require_agreement,
    require_same,
    require_within,
)

DETACHED = "the output asks for no gradient; a kernel that has none declares differentiable=False"


class Refused(Exception):
    """The implementation refuses, with an error, what it need not do; its text says what and how."""


@dataclass(frozen=True)
class Implementation:
    """A function (igate_preact, fgate_preact) -> D~, its name in reports, and what it promises."""

    name: str
    function: Callable[..., object]
    contract: AnyContract

    @classmethod
    def of(cls, name: str, function: Callable[..., object]) -> Implementation:
        """Take the contract that the function was decorated with, else the strictest default."""
        return cls(name, function, contract_of(function))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that it promises and this machine has."""
        present = {"cpu": True, "cuda": torch.cuda.is_available()}
        return tuple(d for d in self.contract.devices or DEVICES if present[d])


@dataclass(frozen=True)
class Run:
    """One forward call: the gates it saw, (B, NH, S) as float64, and the tensor it returned."""

    igate: Array
    fgate: Array
    output: Tensor

    @cached_property
    def dtilde(self) -> Array:
        """D~ as float64, (B, NH, S, S)."""
        return as_array(self.output)


@dataclass(frozen=True)
class Gradients:
    """One backward call: the gates and the cotangent it saw, and both gradients, all float64.

    di, df: (B, NH, S). tensors: the same two, (B, NH, S, 1), as they were returned. detached: the output
    asked for no gradient, so they are zeros.
    """

    run: Run
    G: Array
    tensors: tuple[Tensor, Tensor]
    detached: bool = False

    @cached_property
    def di(self) -> Array:
        """The input gate's gradient."""
        return as_array(self.tensors[0])[..., 0]

    @cached_property
    def df(self) -> Array:
        """The forget gate's gradient."""
        return as_array(self.tensors[1])[..., 0]


@dataclass
class Subject:
    """What a law sees. `worst` is the largest error over bound that it has let pass.

    part: of a law's cases, "all", or the "ladder" or the "search" alone. transcript: where every call is
    written down, under the name `callee`.
    """

    implementation: Implementation
    dtype: str
    device: str = "cpu"
    part: str = "all"
    transcript: Transcript | None = field(default=None, repr=False, compare=False)
    callee: str = "kernel"
    worst: float | None = field(default=None, init=False)
    unjudged_in_a_child: str | None = field(default=None, init=False, repr=False)

    @property
    def contract(self) -> Contract:
        """The implementation's contract."""
        return cast(Contract, self.implementation.contract)

    @cached_property
    def domain(self) -> Domain:
        """What the strategies may draw for it."""
        contract = self.contract
        return Domain.of(
            contract,
            dtype=self.dtype,
            accumulator=contract.accumulator(self.dtype),
            masked_cotangent=contract.masked_cotangent,
        )

    @cached_property
    def rounding(self) -> Rounding:
        """How far its contract lets rounding go in this dtype."""
        contract = self.contract
        return Rounding(
            Format.of(self.dtype),
            Format.of(contract.accumulator(self.dtype)),
            contract.error_scope,
            contract.gates,
        )

    @property
    def wide(self) -> bool:
        """Whether float64 is too coarse an oracle for it."""
        return self.rounding.accumulator.name == "float64"

    @property
    def exact_to_the_bit(self) -> bool:
        """Whether entries depend on nothing beyond their window, so that bits can be compared."""
        return self.contract.error_scope == "window" and self.contract.deterministic

    @property
    def keeps_the_diagonal(self) -> bool:
        """Whether its diagonal is the input gate to the bit (docs/spec.md section 5)."""
        wide_enough = self.rounding.u_a <= self.rounding.u
        return self.contract.error_scope == "window" and self.contract.exact_sums and wide_enough

    def may_flush(self, values: Array) -> Mask:
        """Where a value is subnormal in a dtype whose loads may flush it to zero (not float16)."""
        flushes = self.dtype != "float16"
        return np.asarray((np.abs(values) < self.rounding.output.smallest_normal) & flushes)

    def in_dtype(self, dtype: str) -> Subject:
        """Return the same implementation on the same device in another dtype."""
        return replace(self, dtype=dtype, part="all")

    def on(self, device: str) -> Subject:
        """Return the same implementation in the same dtype on another device."""
        return replace(self, device=device, part="all")

    def calling(self, function: Callable[..., object], callee: str) -> Subject:
        """Return the same promises of another function, this one under a transform; callee: its name."""
        transformed = replace(self.implementation, function=function)
        return replace(self, implementation=transformed, part="all", callee=callee)

    def unrecorded(self) -> Subject:
        """Return the same, its calls written down nowhere."""
        return replace(self, transcript=None)

    @property
    def plainest(self) -> Gates:
        """The gates of the plainest call there is: zeros, one head, the shortest sequence."""
        return Gates(self.dtype, (1, 1, self.contract.seq_multiple_of))

    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, of values that no small case has."""
        return Gates(gates.dtype, gates.shape, Constant(-2.75), Constant(1.375))

    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return what the implementation gives for these gates, and all else as in the case."""
        return self.call(*gates.build(self.device))

    def answer_to_zeros(self, S: int) -> Tensor:
        """Return what the implementation gives for gates of zeros that ask for gradients."""
        gates = Gates(self.dtype, (1, 1, S)).build(self.device)
        return self.call(*(gate.requires_grad_() for gate in gates))

    @cached_property
    def uncallable(self) -> str | None:
        """Why the plainest call there is cannot be made, or None."""
        try:
            self.call(*self.plainest.build(self.device))
        except LawBroken as broken:
            if broken.finding.what == "raised":
                call = f"a call with gates of zeros, {(*self.plainest.shape, 1)}, {broken.finding.computed}"
                return f"{call} (if it is not promised: declare dtypes, devices, seq_multiple_of)"
        return None

    def observe(self, ratio: float) -> None:
        """Note an error over bound that a law let pass."""
        self.worst = ratio if self.worst is None else max(self.worst, ratio)

    def call(self, igate: Tensor, fgate: Tensor) -> Tensor:
        """Call the implementation on gates (B, NH, S, 1), in the layout that its contract names.

        Raises LawBroken where it raises, or returns no (B, NH, S, S) tensor of the same dtype and device.
        """
        layout = self.contract.gate_layout
        name = self.transcript.call(self.callee, layout, igate, fgate) if self.transcript else ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = self.implementation.function(arranged(igate, layout), arranged(fgate, layout))
        except (Exception, SystemExit) as error:  # whatever a user's kernel may raise
            raise LawBroken(raised("D~", error)) from error
        if self.transcript:
            self.transcript.returned(name, output)
        _require_tensor(output, igate)
        assert isinstance(output, Tensor)
        return output

    def forward(self, gates: Gates) -> Run:
        """Build the recipe's gates and call the implementation on them."""
        return self.forward_of(*gates.build(self.device))

    def forward_of(self, igate: Tensor, fgate: Tensor) -> Run:
        """Call the implementation on these gates, (B, NH, S, 1)."""
        seen = as_array(igate)[..., 0], as_array(fgate)[..., 0]
        return Run(*seen, self.call(igate, fgate))

    def gradients(self, gates: Gates, cotangent: Cotangent) -> Gradients:
        """Call the implementation and pull the cotangent back through it."""
        return self.gradients_of(*gates.build(self.device), cotangent.build(gates, self.device))

    def gradients_of(
        self, igate: Tensor, fgate: Tensor, G: Tensor, needed: tuple[int, ...] = (0, 1)
    ) -> Gradients:
        """Call the implementation on these gates and pull G, (B, NH, S, S), back through it.

        needed: which gates ask for a gradient; that of any other is zero.
        """
        return self._pull(igate, fgate, G, needed, 1)[0]

    def gradients_twice(self, igate: Tensor, fgate: Tensor, G: Tensor) -> list[Gradients]:
        """Call the implementation once, and pull G back through the same graph twice."""
        return self._pull(igate, fgate, G, (0, 1), 2)

    def _pull(
        self, igate: Tensor, fgate: Tensor, G: Tensor, needed: tuple[int, ...], times: int
    ) -> list[Gradients]:
        seen = as_array(igate)[..., 0], as_array(fgate)[..., 0]
        G_seen = as_array(G)
        leaves = tuple(
            gate.detach().requires_grad_(number in needed) for number, gate in enumerate((igate, fgate))
        )
        if self.transcript:
            self.transcript.leaves((igate, fgate), leaves, "if")
            self.transcript.name(G, "G")
        output = self.call(*leaves)
        run, detached = Run(*seen, output.detach()), not output.requires_grad
        if self.transcript:
            self.transcript.stands_for(self.transcript.name(output, ""), run.output, given=False)
        pulled = (self.pull_back(output, leaves, G, retain=left > 0) for left in reversed(range(times)))
        return [Gradients(run, G_seen, both, detached) for both in pulled]

    def pull_back(
        self, output: Tensor, leaves: tuple[Tensor, ...], G: Tensor, *, retain: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return both gradients; an unused gate, or an output outside the graph, counts as zeros."""
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        pulled: dict[int, Tensor | None] = {}
        names = self.transcript.pull(output, leaves, G, retain=retain) if self.transcript else []
        if output.requires_grad:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = torch.autograd.grad(output, asked, G, retain_graph=retain, allow_unused=True)
            except (Exception, SystemExit) as error:  # whatever a user's backward may raise
                raise LawBroken(raised("gradients", error)) from error
            pulled = {id(leaf): gradient for leaf, gradient in zip(asked, found, strict=True)}
        di, df = (
            _gradient(name, leaf, pulled.get(id(leaf)))
            for name, leaf in zip(("di", "df"), leaves, strict=True)
        )
        if self.transcript:
            self.transcript.returned(names[0], di if names[0] else None)
            self.transcript.returned(names[1], df if names[1] else None)
        return di, df

    def killed(self, *calls: Sequence[Tensor]) -> str | None:
        """Return the signal of memory that calls on (igate, fgate, G) die of in a child process, or None.

        Raises Refused where no call can be judged so: those on copies die too, or do not end.
        """
        copies = [[x.clone() for x in inputs] for inputs in calls]
        if self.transcript and len(calls) == 1:
            self.transcript.in_a_child(self.callee, self.contract, calls[0])
        quiet = self.unrecorded()
        quiet._exercise(copies[:1])  # what the first call of a process loads, no child should load again
        try:
            killed = self.unjudged_in_a_child is None and died_of(lambda: quiet._exercise(calls))
            if killed and died_of(lambda: quiet._exercise(copies)):
                self.unjudged_in_a_child = f"in a child process the call dies of {killed} on any memory"
        except NotEnded as error:
            self.unjudged_in_a_child = str(error)
        if self.unjudged_in_a_child is not None:
            raise Refused(self.unjudged_in_a_child)
        return killed or None

    def _exercise(self, calls: Sequence[Sequence[Tensor]]) -> None:
        for igate, fgate, G in calls:
            if self.contract.has_gradients:
                self.gradients_of(igate, fgate, G)
            else:
                self.call(igate, fgate)

    def expected_dtilde(self, run: Run) -> Expected:
        """Return what D~ of the gates of this run must be."""
        truth = Forward.of(run.igate, run.fgate, wide=self.wide)
        bound = forward_bound(truth, self.rounding)
        return Expected("D~", truth.kind, truth.value, truth.slack, bound, truth.ball)

    def require_unchanged(self, after: Run, before: Run, where: Mask, note: str) -> None:
        """Require the same entries of D~: to the bit in window scope, else within both bounds."""
        if self.exact_to_the_bit:
            require_same("D~", after.dtilde, before.dtilde, where, note)
            return
        sides = ((run.dtilde, self.expected_dtilde(run).freed(~where)) for run in (after, before))
        (ours, expected), (theirs, other) = sides
        require_agreement(ours, expected, theirs, other, note)

    def backward(self, gradients: Gradients) -> Backward:
        """Return the truth of both gradients of this call."""
        return self.backward_of(gradients.run.fgate, gradients.G)

    def backward_of(self, fgate: Array, G: Array) -> Backward:
        """Return the truth of both gradients for forget gates (B, NH, S) and a cotangent (B, NH, S, S)."""
        return Backward.of(
            fgate,
            G,
            masked_cotangent=self.contract.masked_cotangent,
            wide=self.wide,
        )

    def expected_gradients(
        self, gradients: Gradients, rounding: Rounding | None = None
    ) -> tuple[Expected, Expected]:
        """Return what di and df for the gates and cotangent of this call must be.

        rounding: how far they may be off; the contract's unless another is given.
        """
        truth, rounding = self.backward(gradients), rounding or self.rounding
        di_kind, df_kind = (
            np.where(np.isnan(gate), FREE, FINITE).astype(np.int8)
            for gate in (gradients.run.igate, gradients.run.fgate)
        )
        di_bound = igate_gradient_bound(truth, rounding)
        df_bound = fgate_gradient_bound(truth, rounding)
        note = DETACHED if gradients.detached else ""
        return (
            Expected("di", di_kind, truth.di, truth.di_slack, di_bound, truth.di_ball, note),
            Expected("df", df_kind, truth.df, truth.df_slack, df_bound, truth.df_ball, note),
        )

    def require_gradients(self, gradients: Gradients) -> None:
        """Require both gradients of this call within their bounds."""
        di, df = self.expected_gradients(gradients)
        require_within(gradients.di, di)
        require_within(gradients.df, df)


def arranged(gate: Tensor, layout: str) -> Tensor:
    """Show a gate (B, NH, S, 1) in the axes of the contract; contiguous ones stay contiguous."""
    if layout == "B NH S 1":
        return gate
    flat = gate.squeeze(-1)
    if layout == "B NH S":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if gate.is_contiguous() else swapped


def unarranged(gate: Tensor, layout: str) -> Tensor:
    """Return a gate in the axes of the contract as (B, NH, S, 1) again."""
    if layout == "B NH S 1":
        return gate
    return (gate if layout == "B NH S" else gate.transpose(1, 2)).unsqueeze(-1)


def _require_tensor(output: object, igate: Tensor) -> None:
    B, NH, S, _ = igate.shape
    wanted = f"a {igate.dtype} tensor {(B, NH, S, S)} on {igate.device}"
    if not isinstance(output, Tensor):
        raise LawBroken(Finding("D~", (), f"a {type(output).__name__}", wanted, what="shape"))
    if (output.shape, output.dtype, output.device) != ((B, NH, S, S), igate.dtype, igate.device):
        found = f"a {output.dtype} tensor {tuple(output.shape)} on {output.device}"
        raise LawBroken(Finding("D~", (), found, wanted, what="shape"))


def _gradient(name: str, leaf: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the gradient of a gate, of its shape and dtype; LawBroken where it has others."""
    if gradient is None:
        return torch.zeros_like(leaf)
    if gradient.shape != leaf.shape or gradient.dtype != leaf.dtype:
        found, wanted = (f"{tuple(x.shape)} {x.dtype}" for x in (gradient, leaf))
        note = "shape and dtype of the gate"
        raise LawBroken(Finding(name, (), found, wanted, note=note, what="shape", detail="shape, dtype"))
    return gradient


def raised(quantity: str, error: BaseException) -> Finding:
    """Return the finding of a call that raised instead of giving this quantity."""
    text = str(error).strip().splitlines()
    name = type(error).__name__
    computed = f"raised {name}: {text[0] if text else ''}"
    return Finding(quantity, (), computed, "a result", what="raised", detail=name)

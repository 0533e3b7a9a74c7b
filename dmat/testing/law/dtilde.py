"""A D~ kernel in a dtype on a device, as a law sees it, with the truth of its results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dmat.operator import dtilde
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import Format, Rounding
from dmat.testing.contract import Contract
from dmat.testing.errors import UNCALLABLE, NotEnded, Refused
from dmat.testing.kernel.call import NAN, called, pulled
from dmat.testing.kernel.dtilde import GATES, GateTensors, Gradients, Run, arranged, unarranged
from dmat.testing.law.subject import DETACHED, Subject
from dmat.testing.oracle.arithmetic import FINITE, FREE, Array, Mask
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.processes import died_of
from dmat.testing.verdict.finding import Expected, Finding, LawBroken
from dmat.testing.verdict.require import require_agreement, require_same, require_within

A_CLASS = "a class was given: pass an instance or a function"


@dataclass
class DtildeSubject(Subject):
    """A D~ kernel as a law sees it."""

    unjudged_in_a_child: str | None = field(default=None, init=False, repr=False)

    @property
    def contract(self) -> Contract:
        """The implementation's contract."""
        return cast(Contract, self.implementation.contract)

    # Calls by name

    @property
    def gates(self) -> tuple[str, str]:
        """The names of both gates among the inputs."""
        return GATES

    def build(self, call: Case, filler: float = NAN) -> GateTensors:
        """Build the gates."""
        return GateTensors(*call["gates"].build(self.device, filler))

    def overwrite(self, inputs: GateTensors, rival: Gates) -> None:
        """Write the gates of a rival into the same memory."""
        for gate, other in zip(inputs.named.values(), rival.dense(), strict=True):
            gate.copy_(other)

    def forward_on(self, inputs: GateTensors) -> Run:
        """Call the kernel."""
        return self.forward_of(inputs.igate, inputs.fgate)

    def pull_on(
        self, inputs: GateTensors, call: Case, *, filler: float = NAN, times: int = 1
    ) -> list[Gradients]:
        """Call the kernel and pull the cotangent back, several times through one graph."""
        G = call["cotangent"].build(call["gates"], self.device, filler)
        return self._pull(inputs.igate, inputs.fgate, G, (0, 1), times)

    def name_of(self, name: str) -> str:
        """Return how findings name a gate."""
        return name

    def gradient_name(self, name: str) -> str:
        """Return how findings name the gradient of a gate."""
        return {"igate_preact": "di", "fgate_preact": "df"}[name]

    def expected_outputs(self, run: Run, note: str = "") -> dict[str, Expected]:
        """Return what D~ must be."""
        return {"D~": self.expected_dtilde(run).noted(note)}

    def gradient_must_be(self, gradients: Gradients, name: str) -> Expected:
        """Return what the gradient of one gate must be."""
        return self.expected_gradients(gradients)[GATES.index(name)]

    def judged_gradients(self, call: Case) -> Sequence[str]:
        """Return both gates."""
        return GATES

    # What may be drawn, and how far rounding may go

    @cached_property
    def domain(self) -> Domain:
        """The domain: the cases that the strategies may draw for this kernel."""
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

    def stand_in(self) -> Callable[..., object]:
        """Return dmat's own D~."""
        layout = self.contract.gate_layout
        return lambda i, f: dtilde(unarranged(i, layout), unarranged(f, layout))

    @cached_property
    def uncallable(self) -> str | None:
        """Why the plainest call there is cannot be made, or None."""
        try:
            self.call(*self.plainest.build(self.device))
        except LawBroken as broken:
            given = inspect.isclass(self.implementation.function)
            if given or broken.finding.what == "raised":
                return self._uncallable(broken.finding.computed, given=given)
        return None

    def _uncallable(self, computed: str, *, given: bool) -> str:
        """Return the reason in one line. given: the target is a class."""
        layout, (B, NH, S) = self.contract.gate_layout, self.plainest.shape
        axes = {"B": B, "NH": NH, "S": S, "1": 1}
        shape = tuple(axes[name] for name in layout.split())
        call = f"(igate_preact, fgate_preact), zeros {shape}, {self.dtype} on {self.device}"
        taken = f"({layout.replace(' ', ', ')})"
        expected = f"expected a function (igate_preact, fgate_preact) -> D~ (B, NH, S, S), gates {taken}"
        unpromised = "if it is not promised: declare dtypes, devices, seq_multiple_of"
        advice = A_CLASS if given else unpromised
        computed = computed if computed.startswith("raised") else f"gives {computed}"
        return f"{UNCALLABLE}{call}: {computed}; {expected}; {advice}"

    def call(self, igate: Tensor, fgate: Tensor) -> Tensor:
        """Call the implementation on gates (B, NH, S, 1), in the layout that its contract names.

        Raises LawBroken where it raises, or returns no (B, NH, S, S) tensor of the same dtype and device.
        """
        layout = self.contract.gate_layout
        self.recorder.call(self.callee, layout, igate, fgate)
        arguments = [arranged(gate, layout) for gate in (igate, fgate)]
        output = called("D~", self.implementation.function, arguments, {})
        self.recorder.returned(output)
        _require_tensor(output, igate)
        assert isinstance(output, Tensor)
        return output

    def forward(self, gates: Gates) -> Run:
        """Build the recipe's gates and call the implementation on them."""
        return self.forward_of(*gates.build(self.device))

    def forward_of(self, igate: Tensor, fgate: Tensor) -> Run:
        """Call the implementation on these gates, (B, NH, S, 1)."""
        seen = self.read(igate)[..., 0], self.read(fgate)[..., 0]
        return Run(*seen, self.call(igate, fgate), self.read)

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

    def _pull(
        self, igate: Tensor, fgate: Tensor, G: Tensor, needed: tuple[int, ...], times: int
    ) -> list[Gradients]:
        seen = self.read(igate)[..., 0], self.read(fgate)[..., 0]
        G_seen = self.read(G)
        leaves = tuple(
            gate.detach().requires_grad_(number in needed) for number, gate in enumerate((igate, fgate))
        )
        self.recorder.leaves((igate, fgate), leaves)
        self.recorder.inputs(G=G)
        output = self.call(*leaves)
        run, detached = Run(*seen, output.detach(), self.read), not output.requires_grad
        self.recorder.detached(output, run.output)
        pulled = (self.pull_back(output, leaves, G, retain=left > 0) for left in reversed(range(times)))
        return [Gradients(run, G_seen, both, detached) for both in pulled]

    def pull_back(
        self, output: Tensor, leaves: tuple[Tensor, ...], G: Tensor, *, retain: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return both gradients; an unused gate, or an output outside the graph, counts as zeros."""
        self.recorder.pull(output, leaves, G, retain=retain)
        asked = {name: leaf for name, leaf in zip(("di", "df"), leaves, strict=True) if leaf.requires_grad}
        found = pulled(output, asked, G, retain=retain)
        di, df = (
            _gradient(name, leaf, found.get(name)) for name, leaf in zip(("di", "df"), leaves, strict=True)
        )
        self.recorder.pulled((di, df))
        return di, df

    def killed(self, *calls: Sequence[Tensor]) -> str | None:
        """Return the signal of memory that calls on (igate, fgate, G) die of in a child process, or None.

        Raises Refused where no call can be judged so: those on copies die too, or do not end.
        """
        copies = [[x.clone() for x in inputs] for inputs in calls]
        if len(calls) == 1:
            self.recorder.in_a_child(self.callee, self.contract, calls[0])
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

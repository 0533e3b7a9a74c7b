"""The subject of the laws of D~: a D~ kernel in a dtype on a device, its calls and its expected values."""

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
    """A D~ kernel in a dtype on a device, as a law calls and judges it.

    unjudged_in_a_child: why calls in a child process cannot be judged, or None.
    """

    unjudged_in_a_child: str | None = field(default=None, init=False, repr=False)

    @property
    def contract(self) -> Contract:
        """The implementation's contract."""
        return cast(Contract, self.implementation.contract)

    # Calls by name

    @property
    def gates(self) -> tuple[str, str]:
        """The input names of the input gate and the forget gate."""
        return GATES

    def build(self, call: Case, poison: float = NAN) -> GateTensors:
        """Build the gates."""
        return GateTensors(*call["gates"].build(self.device, poison))

    def overwrite(self, inputs: GateTensors, rival: Gates) -> None:
        """Overwrite the gates in place with those of `rival`."""
        for gate, other in zip(inputs.named.values(), rival.dense(), strict=True):
            gate.copy_(other)

    def forward_on(self, inputs: GateTensors) -> Run:
        """Call the kernel."""
        return self.forward_of(inputs.igate, inputs.fgate)

    def pull_on(
        self, inputs: GateTensors, call: Case, *, poison: float = NAN, times: int = 1
    ) -> list[Gradients]:
        """Call the kernel once, and pull the cotangent back `times` times through its graph."""
        G = call["cotangent"].build(call["gates"], self.device, poison)
        return self._pull(inputs.igate, inputs.fgate, G, (0, 1), times)

    def name_of(self, name: str) -> str:
        """Return the name of a gate in findings."""
        return name

    def gradient_name(self, name: str) -> str:
        """Return the name of a gate's gradient in findings."""
        return {"igate_preact": "di", "fgate_preact": "df"}[name]

    def expected_outputs(self, run: Run, note: str = "") -> dict[str, Expected]:
        """Return the expected value of D~, by name."""
        return {"D~": self.expected_dtilde(run).noted(note)}

    def gradient_must_be(self, gradients: Gradients, name: str) -> Expected:
        """Return the expected value of one gate's gradient."""
        return self._expected_gradient(gradients, name, self.backward(gradients), self.rounding)

    def judged_gradients(self, call: Case) -> Sequence[str]:
        """Return the names of both gates: a D~ kernel's gradients are judged in every call."""
        return GATES

    # Domain and rounding

    @cached_property
    def domain(self) -> Domain:
        """The cases that the strategies may draw for this kernel."""
        contract = self.contract
        return Domain.of(
            contract,
            dtype=self.dtype,
            accumulator=contract.accumulator(self.dtype),
            masked_cotangent=contract.masked_cotangent,
        )

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

    @property
    def plainest(self) -> Gates:
        """The gates of the smoke call: zeros, one head, the shortest sequence."""
        return Gates(self.dtype, (1, 1, self.contract.seq_multiple_of))

    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, with values that occur in no small case."""
        return Gates(gates.dtype, gates.shape, Constant(-2.75), Constant(1.375))

    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return D~ for these gates. The rest of the case is not used."""
        return self.call(*gates.build(self.device))

    def answer_to_zeros(self, S: int) -> Tensor:
        """Return D~ for gates of zeros that require gradients."""
        gates = Gates(self.dtype, (1, 1, S)).build(self.device)
        return self.call(*(gate.requires_grad_() for gate in gates))

    def stand_in(self) -> Callable[..., object]:
        """Return dmat's own D~."""
        layout = self.contract.gate_layout
        return lambda i, f: dtilde(unarranged(i, layout), unarranged(f, layout))

    @cached_property
    def uncallable(self) -> str | None:
        """Why the smoke call fails, in one line, or None."""
        try:
            self.call(*self.plainest.build(self.device))
        except LawBroken as broken:
            given = inspect.isclass(self.implementation.function)
            if given or broken.finding.what == "raised":
                return self._uncallable(broken.finding.computed, given=given)
        return None

    def _uncallable(self, computed: str, *, given: bool) -> str:
        """Return the reason in one line. computed: the result of the call. given: the target is a class."""
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
        """Call the implementation on gates (B, NH, S, 1), shown in the layout of its contract.

        Raises LawBroken if the implementation raises, or if its result is not a (B, NH, S, S) tensor of the
        gates' dtype and device.
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

        needed: the indices of the gates that require a gradient. The gradient of the other gate is zero.
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
        """Return both gradients. They are zeros for an unused gate, or for an output outside the graph."""
        self.recorder.pull(output, leaves, G, retain=retain)
        asked = {name: leaf for name, leaf in zip(("di", "df"), leaves, strict=True) if leaf.requires_grad}
        found = pulled(output, asked, G, retain=retain)
        di, df = (
            _gradient(name, leaf, found.get(name)) for name, leaf in zip(("di", "df"), leaves, strict=True)
        )
        self.recorder.pulled((di, df))
        return di, df

    def killed(self, *calls: Sequence[Tensor]) -> str | None:
        """Return the memory signal that kills a child process during calls on (igate, fgate, G), or None.

        Raises Refused if calls in a child process cannot be judged: they die on ordinary copies of the
        tensors too, or do not end.
        """
        copies = [[x.clone() for x in inputs] for inputs in calls]
        if len(calls) == 1:
            self.recorder.in_a_child(self.callee, self.contract, calls[0])
        quiet = self.unrecorded()
        quiet._exercise(copies[:1])  # load here what a process loads at its first call, not in each child
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
        """Return the expected value of D~ for the gates of this run."""
        truth = Forward.of(run.igate, run.fgate, wide=self.wide)
        bound = forward_bound(truth, self.rounding)
        return Expected("D~", truth.kind, truth.value, truth.slack, bound, truth.ball)

    def require_unchanged(self, after: Run, before: Run, where: Mask, note: str) -> None:
        """Require two runs to agree at `where`: bit for bit in window scope, else within both bounds."""
        if self.exact_to_the_bit:
            require_same("D~", after.dtilde, before.dtilde, where, note)
            return
        sides = ((run.dtilde, self.expected_dtilde(run).freed(~where)) for run in (after, before))
        (ours, expected), (theirs, other) = sides
        require_agreement(ours, expected, theirs, other, note)

    def backward(self, gradients: Gradients) -> Backward:
        """Return the true values of both gradients of this call."""
        return self.backward_of(gradients.run.fgate, gradients.G)

    def backward_of(self, fgate: Array, G: Array) -> Backward:
        """Return both true gradients for forget gates (B, NH, S) and a cotangent (B, NH, S, S)."""
        return Backward.of(
            fgate,
            G,
            masked_cotangent=self.contract.masked_cotangent,
            wide=self.wide,
        )

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


def _require_tensor(output: object, igate: Tensor) -> None:
    B, NH, S, _ = igate.shape
    wanted = f"a {igate.dtype} tensor {(B, NH, S, S)} on {igate.device}"
    if not isinstance(output, Tensor):
        raise LawBroken(Finding("D~", (), f"a {type(output).__name__}", wanted, what="shape"))
    if (output.shape, output.dtype, output.device) != ((B, NH, S, S), igate.dtype, igate.device):
        found = f"a {output.dtype} tensor {tuple(output.shape)} on {output.device}"
        raise LawBroken(Finding("D~", (), found, wanted, what="shape"))


def _gradient(name: str, leaf: Tensor, gradient: Tensor | None) -> Tensor:
    """Return a gate's gradient, zeros for None. Raises LawBroken if its shape or dtype is not the gate's."""
    if gradient is None:
        return torch.zeros_like(leaf)
    if gradient.shape != leaf.shape or gradient.dtype != leaf.dtype:
        found, wanted = (f"{tuple(x.shape)} {x.dtype}" for x in (gradient, leaf))
        note = "shape and dtype of the gate"
        raise LawBroken(Finding(name, (), found, wanted, note=note, what="shape", detail="shape, dtype"))
    return gradient

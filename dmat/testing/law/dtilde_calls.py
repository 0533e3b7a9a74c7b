"""The calls of a D~ kernel that laws make: the inputs they build, forward calls, and pullbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from dmat.operator import dtilde
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import Contract
from dmat.testing.devices import lacks
from dmat.testing.errors import UNCALLABLE, NotEnded, Refused
from dmat.testing.interpret.choice import is_interpreted
from dmat.testing.kernel.call import NAN, called, pulled
from dmat.testing.kernel.dtilde import GATES, GateTensors, Gradients, Run, arranged, unarranged
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.processes import died_of
from dmat.testing.verdict.finding import Finding, LawBroken

A_CLASS = "a class was given: pass an instance or a function"


@dataclass
class DtildeCalls(Subject):
    """A D~ kernel in a dtype on a device, as a law calls it.

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

    def cotangent_of(self, inputs: GateTensors, call: Case, poison: float = NAN) -> Tensor:
        """Build the cotangent of D~, (B, NH, S, S)."""
        G: Tensor = call["cotangent"].build(call["gates"], self.device, poison)
        return G

    def pull_on(
        self,
        inputs: GateTensors,
        call: Case,
        *,
        poison: float = NAN,
        times: int = 1,
        cotangent: Tensor | None = None,
    ) -> list[Gradients]:
        """Call the kernel once, and pull the cotangent back `times` times through its graph."""
        G = self.cotangent_of(inputs, call, poison) if cotangent is None else cotangent
        return self._pull(inputs.igate, inputs.fgate, G, (0, 1), times)

    def changed(self, call: Case, keep: Mask | Mapping[str, Mask]) -> tuple[Run, Run]:
        """Call on the gates, and on gates that agree with them just in `keep`; shapes and strides alike."""
        gates, masks = call["gates"], keep if isinstance(keep, Mapping) else dict.fromkeys(GATES, keep)
        own = gates.dense()
        before = self.forward_of(*gates.lay_out(*own, self.device))
        igate, fgate = (
            torch.where(torch.from_numpy(masks[name])[..., None], gate, other)
            for name, gate, other in zip(GATES, own, call["rival"].dense(), strict=True)
        )
        return before, self.forward_of(*gates.lay_out(igate, fgate, self.device))

    def name_of(self, name: str) -> str:
        """Return the name of a gate in findings."""
        return name

    def gradient_name(self, name: str) -> str:
        """Return the name of a gate's gradient in findings."""
        return {"igate_preact": "di", "fgate_preact": "df"}[name]

    # The cases, and the smoke call

    @cached_property
    def domain(self) -> Domain:
        """The cases that the strategies may draw for this kernel."""
        contract = self.contract
        return Domain.of(
            contract,
            dtype=self.dtype,
            accumulator=contract.accumulator(self.dtype),
            masked_cotangent=contract.masked_cotangent,
            slow=is_interpreted(),
        )

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
        if reason := lacks(self.dtype, self.device):
            return reason
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

    # Calls

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
        found = pulled({"D~": (output, G)}, asked, retain=retain)
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

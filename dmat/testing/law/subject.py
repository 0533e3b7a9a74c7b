"""The subject of a law: one implementation, dtype and device. Each kind of kernel has its own subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from torch import Tensor

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import AnyContract
from dmat.testing.kernel.call import Called, Kernel
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.recording import SILENT, Recorder
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.verdict.finding import Exact, Expected, as_array
from dmat.testing.verdict.require import require_same

DETACHED = "the output asks for no gradient; a kernel that has none declares differentiable=False"


@dataclass
class Subject(Kernel, ABC):
    """An implementation in a dtype on a device, as a law calls and judges it.

    part: the cases of a law to try: "all", only the "ladder", or only the "search". recorder: records every
    call. callee: the name of the function in the record. worst: the largest error / bound of all entries that
    a law has accepted. remarks: what a law has seen that breaks no promise.
    """

    implementation: Implementation
    dtype: str
    device: str = "cpu"
    part: str = "all"
    recorder: Recorder = field(default=SILENT, repr=False, compare=False)
    callee: str = "kernel"
    worst: float | None = field(default=None, init=False)
    remarks: set[str] = field(default_factory=set, init=False)

    @property
    def contract(self) -> AnyContract:
        """The implementation's contract."""
        return self.implementation.contract

    @property
    def kind(self) -> str:
        """The kind of the kernel, which selects its laws: "D~" or "fused"."""
        return self.implementation.kind

    @property
    def wide(self) -> bool:
        """Whether the kernel accumulates in float64, so that an oracle in float64 is too coarse for it."""
        return self.contract.accumulator(self.dtype) == "float64"

    # Expected values of a call

    @property
    @abstractmethod
    def gates(self) -> tuple[str, str]:
        """The input names of the input gate and the forget gate."""

    @abstractmethod
    def expected_outputs(self, run: Any, note: str = "") -> dict[str, Expected]:
        """Return the expected outputs of this call, by name."""

    @abstractmethod
    def gradient_must_be(self, gradients: Any, name: str) -> Expected:
        """Return the expected value of one input's gradient."""

    @abstractmethod
    def judged_gradients(self, call: Case) -> Sequence[str]:
        """Return the names of the inputs whose gradients can be judged in this call."""

    # Values to the bit, and entries that a call may not change

    @property
    @abstractmethod
    def exact_to_the_bit(self) -> bool:
        """Whether entries keep their bits if nothing that they read changes."""

    @property
    @abstractmethod
    def exact_across_heads(self) -> bool:
        """Whether entries keep their bits if other heads change."""

    def require_unchanged(
        self, after: Called, before: Called, where: Mask, note: str, *, bits: bool = False
    ) -> None:
        """Require two runs to agree at `where`: bit for bit if `exact_to_the_bit`, else within bounds.

        where: broadcast to the output. bits: compare bit for bit in any case.
        """
        for name in after.outputs:
            there = np.broadcast_to(where, before.of(name).shape)
            if self.exact_to_the_bit or bits:
                require_same(name, after.of(name), before.of(name), there, note)
            else:
                self.require_agreeing(after, before, there, note)

    @abstractmethod
    def require_agreeing(self, after: Any, before: Any, where: Mask, note: str) -> None:
        """Require two runs to agree at `where` within bounds. where: in the shape of the output."""

    @abstractmethod
    def reach(self, call: Case, head: tuple[int, int], t: int) -> tuple[Mapping[str, Mask], Mask]:
        """Return the inputs that some entries read, (B, NH, S) by name, and a mask of these entries."""

    @abstractmethod
    def future(self, inputs: Any, run: Any) -> Mapping[str, Exact]:
        """Return the exact values of the future of each output, by name."""

    @abstractmethod
    def exact_outputs(self, run: Any) -> Mapping[str, Exact]:
        """Return the exact outputs for integers, by name."""

    @abstractmethod
    def exact_gradients(self, gradients: Any) -> Mapping[str, Exact]:
        """Return the exact gradients for integers, by the name of their input."""

    @abstractmethod
    def first_gradient(self, gradients: Any) -> Exact | None:
        """Return the exact gradient of the first forget gate, 0; None if the contract promises a bound."""

    @abstractmethod
    def lent(self, inputs: Any, cotangent: Tensor) -> Mapping[str, Tensor]:
        """Return the tensors of a backward call that the law `cotangent_untouched` watches, by name."""

    # The smoke call, and the calls of a case

    @cached_property
    @abstractmethod
    def domain(self) -> Domain:
        """The cases that the strategies may draw for this kernel."""

    @property
    @abstractmethod
    def plainest(self) -> Gates:
        """The gates of the smoke call: zeros, one head, the shortest sequence."""

    @abstractmethod
    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, with values that occur in no small case."""

    @abstractmethod
    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return the output for these gates. All other inputs are those of the case."""

    @abstractmethod
    def answer_to_zeros(self, S: int) -> Tensor:
        """Return the output for gates of zeros. All inputs require gradients."""

    @cached_property
    @abstractmethod
    def uncallable(self) -> str | None:
        """Why the smoke call fails, in one line, or None."""

    @abstractmethod
    def stand_in(self) -> Callable[..., object]:
        """Return a harmless function with results of the right shapes, to call in place of the kernel."""

    def gates_of_case(self, case: Case) -> tuple[Tensor, Tensor]:
        """Return both gates of a case, contiguous on the CPU, (B, NH, S, 1) or as the kernel has them."""
        gates: Gates = case["gates"]
        return gates.dense()

    # Copies with a change

    def in_dtype(self, dtype: str) -> Self:
        """Return the same implementation on the same device in another dtype."""
        return replace(self, dtype=dtype, part="all")

    def on(self, device: str) -> Self:
        """Return the same implementation in the same dtype on another device."""
        return replace(self, device=device, part="all")

    def calling(self, function: Callable[..., object], callee: str) -> Self:
        """Return the subject with another function, this one under a transform, and the same contract.

        callee: the name of that function in the record.
        """
        transformed = replace(self.implementation, function=function)
        return replace(self, implementation=transformed, part="all", callee=callee)

    def unrecorded(self) -> Self:
        """Return a copy whose calls are not recorded."""
        return replace(self, recorder=SILENT)

    # Values that a law reads

    def read(self, tensor: Tensor) -> Array:
        """Copy the tensor's values to float64, and record that they were read."""
        values = as_array(tensor)
        self.recorder.read(tensor, values)
        return values

    def observe(self, ratio: float) -> None:
        """Keep the largest error / bound that a law accepted."""
        self.worst = ratio if self.worst is None else max(self.worst, ratio)

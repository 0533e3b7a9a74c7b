"""One implementation, one dtype, one device, as a law sees it. Each kind of kernel has its own Subject."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from torch import Tensor

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import AnyContract
from dmat.testing.kernel.call import Kernel
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.recording import SILENT, Recorder
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Expected, as_array

DETACHED = "the output asks for no gradient; a kernel that has none declares differentiable=False"


@dataclass
class Subject(Kernel, ABC):
    """A kernel in a dtype on a device, as a law sees it. `worst` is the largest error over bound let pass.

    part: of a law's cases, "all", or the "ladder" or the "search" alone. recorder: is told of every call.
    callee: the name of the function in the record.
    """

    implementation: Implementation
    dtype: str
    device: str = "cpu"
    part: str = "all"
    recorder: Recorder = field(default=SILENT, repr=False, compare=False)
    callee: str = "kernel"
    worst: float | None = field(default=None, init=False)

    @property
    def contract(self) -> AnyContract:
        """The implementation's contract."""
        return self.implementation.contract

    @property
    def kind(self) -> str:
        """The kind of the kernel: which laws are its."""
        return self.implementation.kind

    @property
    def wide(self) -> bool:
        """Whether float64 is too coarse an oracle for it."""
        return self.contract.accumulator(self.dtype) == "float64"

    # What must come out of a call

    @property
    @abstractmethod
    def gates(self) -> tuple[str, str]:
        """The names of the input gate and of the forget gate among the inputs."""

    @abstractmethod
    def expected_outputs(self, run: Any, note: str = "") -> dict[str, Expected]:
        """Return what the outputs of this call must be, by name."""

    @abstractmethod
    def gradient_must_be(self, gradients: Any, name: str) -> Expected:
        """Return what the gradient of one input must be."""

    @abstractmethod
    def judged_gradients(self, call: Case) -> Sequence[str]:
        """Return the inputs whose gradients have a truth in this call, by name."""

    # The plainest calls, and those of a case

    @cached_property
    @abstractmethod
    def domain(self) -> Domain:
        """The domain: the cases that the strategies may draw for this kernel."""

    @property
    @abstractmethod
    def plainest(self) -> Gates:
        """The gates of the plainest call there is: zeros, one head, the shortest sequence."""

    @abstractmethod
    def other_gates(self, gates: Gates) -> Gates:
        """Return gates of the same shape and dtype, of values that no small case has."""

    @abstractmethod
    def answer(self, case: Case, gates: Gates) -> Tensor:
        """Return what the implementation gives for these gates, and all else as in the case."""

    @abstractmethod
    def answer_to_zeros(self, S: int) -> Tensor:
        """Return what the implementation gives for gates of zeros that ask for gradients."""

    @cached_property
    @abstractmethod
    def uncallable(self) -> str | None:
        """Why the plainest call there is cannot be made, or None."""

    @abstractmethod
    def stand_in(self) -> Callable[..., object]:
        """Return a harmless function that gives results of the same kind, of the right shapes."""

    # The same in another way

    def in_dtype(self, dtype: str) -> Self:
        """Return the same implementation on the same device in another dtype."""
        return replace(self, dtype=dtype, part="all")

    def on(self, device: str) -> Self:
        """Return the same implementation in the same dtype on another device."""
        return replace(self, device=device, part="all")

    def calling(self, function: Callable[..., object], callee: str) -> Self:
        """Return the same promises of another function, this one under a transform; callee: its name."""
        transformed = replace(self.implementation, function=function)
        return replace(self, implementation=transformed, part="all", callee=callee)

    def unrecorded(self) -> Self:
        """Return the same, its calls written down nowhere."""
        return replace(self, recorder=SILENT)

    # What a law has seen

    def read(self, tensor: Tensor) -> Array:
        """Return the tensor's values as float64, in a copy; the recorder is told of it."""
        values = as_array(tensor)
        self.recorder.read(tensor, values)
        return values

    def observe(self, ratio: float) -> None:
        """Note an error over bound that a law let pass."""
        self.worst = ratio if self.worst is None else max(self.worst, ratio)

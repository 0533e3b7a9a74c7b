"""The calls that a law makes of a kernel of any kind: named inputs in, named outputs and gradients out.

Kernels have two kinds, D~ and fused. Each kind implements the protocols of this module. A law of both kinds
reaches the kernel's code through these protocols only.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.verdict.finding import Finding, LawBroken

NAN = float("nan")


class Inputs(Protocol):
    """The tensors of one call."""

    @property
    def named(self) -> Mapping[str, Tensor]:
        """Return the tensors by name, in the order of the call's arguments."""


class Called(Protocol):
    """One forward call."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Return the tensors that the call returned, by name."""

    def of(self, name: str) -> Array:
        """Return the values of the named output as float64."""


class PulledBack(Protocol):
    """One backward call."""

    @property
    def run(self) -> Called:
        """Return the forward call that this backward call follows."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradients by the name of their input."""

    def of(self, name: str) -> Array:
        """Return the values of the named input's gradient as float64."""


class Kernel(Protocol):
    """A kernel of either kind, called by names. call: the parts of a case that describe a call."""

    @abstractmethod
    def build(self, call: Case, poison: float = NAN) -> Inputs:
        """Build the inputs. poison: the poison value written around them in memory."""

    @abstractmethod
    def overwrite(self, inputs: Any, rival: Gates) -> None:
        """Overwrite the inputs in place. rival: the gates whose values to write."""

    @abstractmethod
    def forward_on(self, inputs: Any) -> Called:
        """Call the kernel."""

    @abstractmethod
    def cotangent_of(self, inputs: Any, call: Case, poison: float = NAN) -> Tensor:
        """Build the call's cotangent of the output."""

    @abstractmethod
    def pull_on(
        self,
        inputs: Any,
        call: Case,
        *,
        poison: float = NAN,
        times: int = 1,
        cotangent: Tensor | None = None,
    ) -> Sequence[PulledBack]:
        """Call the kernel once, and pull a cotangent back `times` times through its graph.

        cotangent: the cotangent of the output; None for the call's. A gradient that the contract does not
        promise is zeros.
        """

    @abstractmethod
    def changed(self, call: Case, keep: Mask | Mapping[str, Mask]) -> tuple[Called, Called]:
        """Call the kernel twice: on the inputs, and on inputs that agree with them just in `keep`.

        keep: (B, NH, S), for all inputs or by the name of the input. The other values of the gates are those
        of the call's part `rival`.
        """

    @abstractmethod
    def name_of(self, name: str) -> str:
        """Return the name of an input in findings."""

    @abstractmethod
    def gradient_name(self, name: str) -> str:
        """Return the name of an input's gradient in findings."""


def raised(quantity: str, error: BaseException) -> Finding:
    """Return the finding for a call that raised instead of returning this quantity."""
    text = str(error).strip().splitlines()
    name = type(error).__name__
    computed = f"raised {name}: {text[0] if text else ''}"
    return Finding(quantity, (), computed, "a result", what="raised", detail=name)


def called(
    quantity: str, function: Callable[..., object], arguments: Sequence[Tensor], more: Mapping[str, object]
) -> object:
    """Call a kernel and return its result. Raises LawBroken if the kernel raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments, **more)
    except (Exception, SystemExit) as error:  # a user's kernel may raise anything
        raise LawBroken(raised(quantity, error)) from error


def pulled(
    outputs: Mapping[str, tuple[Tensor, Tensor]], leaves: Mapping[str, Tensor], *, retain: bool
) -> dict[str, Tensor | None]:
    """Return the gradient of each leaf; None for a leaf that no output depends on.

    outputs: each output with its cotangent. retain: keep the graph. Raises LawBroken if the backward raises.
    """
    differentiable = [pair for pair in outputs.values() if pair[0].requires_grad]
    if not (differentiable and leaves):
        return dict.fromkeys(leaves)
    tensors, cotangents = zip(*differentiable, strict=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.autograd.grad(
                tensors, list(leaves.values()), cotangents, retain_graph=retain, allow_unused=True
            )
    except (Exception, SystemExit) as error:  # a user's backward may raise anything
        raise LawBroken(raised("gradients", error)) from error
    return dict(zip(leaves, found, strict=True))

"""How a law calls a kernel of any kind: named inputs in, named outputs and named gradients out.

The two kinds, D~ and fused, are siblings: each makes these calls in its own way. A law of both kinds knows of
no other way to the kernel's code.
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
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Finding, LawBroken

NAN = float("nan")


class Inputs(Protocol):
    """The tensors of one call."""

    @property
    def named(self) -> Mapping[str, Tensor]:
        """Return them by name, in the order of the call."""


class Called(Protocol):
    """One forward call."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Return the tensors that it returned, by name."""

    def of(self, name: str) -> Array:
        """Return the values of one of them as float64."""


class PulledBack(Protocol):
    """One backward call."""

    @property
    def run(self) -> Called:
        """Return the forward call before it."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradients by the name of their input."""

    def of(self, name: str) -> Array:
        """Return the values of one of them as float64."""


class Kernel(Protocol):
    """A kernel as a law of both kinds calls it. call: the parts of a case that describe a call."""

    @abstractmethod
    def build(self, call: Case, filler: float = NAN) -> Inputs:
        """Build the inputs. filler: what stands around them in memory."""

    @abstractmethod
    def overwrite(self, inputs: Any, rival: Gates) -> None:
        """Write other values into the same memory."""

    @abstractmethod
    def forward_on(self, inputs: Any) -> Called:
        """Call the kernel."""

    @abstractmethod
    def pull_on(
        self, inputs: Any, call: Case, *, filler: float = NAN, times: int = 1
    ) -> Sequence[PulledBack]:
        """Call the kernel and pull the call's cotangent back, several times through one graph.

        Gradients that the contract does not have are zeros.
        """

    @abstractmethod
    def name_of(self, name: str) -> str:
        """Return how findings name an input."""

    @abstractmethod
    def gradient_name(self, name: str) -> str:
        """Return how findings name the gradient of an input."""


def raised(quantity: str, error: BaseException) -> Finding:
    """Return the finding of a call that raised instead of giving this quantity."""
    text = str(error).strip().splitlines()
    name = type(error).__name__
    computed = f"raised {name}: {text[0] if text else ''}"
    return Finding(quantity, (), computed, "a result", what="raised", detail=name)


def called(
    quantity: str, function: Callable[..., object], arguments: Sequence[Tensor], more: Mapping[str, object]
) -> object:
    """Return what a kernel returns. Raises LawBroken where it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments, **more)
    except (Exception, SystemExit) as error:  # whatever a user's kernel may raise
        raise LawBroken(raised(quantity, error)) from error


def pulled(
    output: Tensor, leaves: Mapping[str, Tensor], cotangent: Tensor, *, retain: bool
) -> dict[str, Tensor | None]:
    """Return the gradients of these leaves, None of one that the output does not depend on.

    retain: keep the graph. Raises LawBroken where a backward raises.
    """
    if not (output.requires_grad and leaves):
        return dict.fromkeys(leaves)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.autograd.grad(
                output, list(leaves.values()), cotangent, retain_graph=retain, allow_unused=True
            )
    except (Exception, SystemExit) as error:  # whatever a user's backward may raise
        raise LawBroken(raised("gradients", error)) from error
    return dict(zip(leaves, found, strict=True))

"""Inputs, output and gradients of one call of a fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from torch import Tensor

from dmat.strategies.recipes.qkv import Places
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused import Pulled
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import as_array

NOTHING: Mapping[str, object] = MappingProxyType({})


NAMES = ("q", "k", "v", "i", "g")  # the tensors of a call; "g" is l or f, by the contract


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call: q, k (B, NH, S, K), v (B, NH, S, V), i, g (B, NH, S, 1).

    i or g is None if the kernel does not take it.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor | None
    g: Tensor | None
    column: Places = field(repr=False, compare=False)

    @property
    def named(self) -> dict[str, Tensor]:
        """Return the tensors that the kernel takes, in the order of the call."""
        return {name: x for name in NAMES if (x := getattr(self, name)) is not None}

    def part(self, start: int, end: int) -> Inputs:
        """Return the inputs restricted to the times start <= t < end."""
        cut = {name: x[:, :, start:end] for name, x in self.named.items()}
        return replace(self, **cut)  # type: ignore[arg-type]  # only tensors are named

    def with_(self, **tensors: Tensor | None) -> Inputs:
        """Return the inputs with some tensors replaced, by name."""
        return replace(self, **tensors)  # type: ignore[arg-type]  # only tensors are named


@dataclass(frozen=True)
class FusedRun:
    """One forward call: the exact values of its inputs, and the output that it returned, (B, NH, S, V).

    read: the function that copies a result's values to float64.
    """

    inputs: CallInputs
    output: Tensor
    read: Callable[[Tensor], Array] = field(default=as_array, repr=False, compare=False)

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output tensor, by name."""
        return {"o": self.output}

    def of(self, name: str) -> Array:
        """Return the values of the named output as float64."""
        return {"o": self.o}[name]

    @cached_property
    def o(self) -> Array:
        """The output as float64."""
        return self.read(self.output)


@dataclass(frozen=True)
class FusedGradients:
    """One backward call: its cotangent W, and the gradient of each input, by name, float64.

    The gradients of i and g are (B, NH, S); those of q, k and v have the input's shape. detached: the output
    did not require a gradient, so all gradients are zeros. pulled: the true gradients. bounds: their allowed
    errors. Both compute a value when it is first read.
    """

    run: FusedRun
    W: Array
    tensors: dict[str, Tensor]
    detached: bool
    pulled: Pulled
    bounds: FusedBounds

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradients by the name of their input."""
        return self.tensors

    def of(self, name: str) -> Array:
        """Return the values of the named input's gradient."""
        gradient = self.run.read(self.tensors[name])
        return gradient[..., 0] if name in ("i", "g") else gradient


def arranged(x: Tensor, name: str, layout: str) -> Tensor:
    """Return a tensor (B, NH, S, n) in the kernel's axes. A gate, n = 1, loses its last axis."""
    flat = x.squeeze(-1) if name in ("i", "g") else x
    if layout == "BHSD":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if x.is_contiguous() else swapped

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
from dmat.testing.oracle.fused_inputs import Seen
from dmat.testing.verdict.finding import as_array

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
    """One forward call: the inputs it saw, exactly, and the output that it returned, (B, NH, S, V).

    read: how the values of results are read.
    """

    seen: Seen
    output: Tensor
    read: Callable[[Tensor], Array] = field(default=as_array, repr=False, compare=False)

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output by name."""
        return {"o": self.output}

    def of(self, name: str) -> Array:
        """Return the values of an output."""
        return {"o": self.o}[name]

    @cached_property
    def o(self) -> Array:
        """The output as float64."""
        return self.read(self.output)


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

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradients by the name of their input."""
        return self.tensors

    def of(self, name: str) -> Array:
        """Return one of them."""
        gradient = self.run.read(self.tensors[name])
        return gradient[..., 0] if name in ("i", "g") else gradient


def arranged(x: Tensor, name: str, layout: str) -> Tensor:
    """Show a tensor (B, NH, S, n) in the kernel's axes; a gate, n = 1, without its last."""
    flat = x.squeeze(-1) if name in ("i", "g") else x
    if layout == "BHSD":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if x.is_contiguous() else swapped

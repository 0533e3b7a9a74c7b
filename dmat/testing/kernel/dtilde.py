"""Inputs and results of one call of a D~ kernel: the gates, D~, both gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array

GATES = ("igate_preact", "fgate_preact")


@dataclass(frozen=True)
class Run:
    """One forward call: its gates, (B, NH, S) as float64, and the tensor that it returned.

    read: the function that copies a result's values to float64.
    """

    igate: Array
    fgate: Array
    output: Tensor
    read: Callable[[Tensor], Array] = field(default=as_array, repr=False, compare=False)

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output tensor, by name."""
        return {"D~": self.output}

    def of(self, name: str) -> Array:
        """Return the values of the named output as float64."""
        return {"D~": self.dtilde}[name]

    @cached_property
    def dtilde(self) -> Array:
        """D~ as float64, (B, NH, S, S)."""
        return self.read(self.output)


@dataclass(frozen=True)
class Gradients:
    """One backward call: its gates, its cotangent G and both gradients, all float64.

    di, df: (B, NH, S). tensors: the two gradients as the call returned them, (B, NH, S, 1). detached: the
    output did not require a gradient, so both gradients are zeros.
    """

    run: Run
    G: Array
    tensors: tuple[Tensor, Tensor]
    detached: bool = False

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Both gradients by the name of their gate."""
        return dict(zip(GATES, self.tensors, strict=True))

    def of(self, name: str) -> Array:
        """Return the values of the named gate's gradient."""
        return self.di if name == "igate_preact" else self.df

    @cached_property
    def di(self) -> Array:
        """The input gate's gradient."""
        return self.run.read(self.tensors[0])[..., 0]

    @cached_property
    def df(self) -> Array:
        """The forget gate's gradient."""
        return self.run.read(self.tensors[1])[..., 0]


@dataclass(frozen=True)
class GateTensors:
    """The gates of one call, (B, NH, S, 1) each."""

    igate: Tensor
    fgate: Tensor

    @property
    def named(self) -> Mapping[str, Tensor]:
        """Both gates by name."""
        return {"igate_preact": self.igate, "fgate_preact": self.fgate}


def arranged(gate: Tensor, layout: str) -> Tensor:
    """Return a gate (B, NH, S, 1) in the axes of the contract. A contiguous gate stays contiguous."""
    if layout == "B NH S 1":
        return gate
    flat = gate.squeeze(-1)
    if layout == "B NH S":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if gate.is_contiguous() else swapped


def unarranged(gate: Tensor, layout: str) -> Tensor:
    """Return a gate given in the axes of the contract as (B, NH, S, 1): the inverse of `arranged`."""
    if layout == "B NH S 1":
        return gate
    return (gate if layout == "B NH S" else gate.transpose(1, 2)).unsqueeze(-1)

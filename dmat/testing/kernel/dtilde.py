"""Results of one call of a D~ kernel: D~, or both gradients."""

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
    """One forward call: the gates it saw, (B, NH, S) as float64, and the tensor it returned.

    read: how the values of results are read.
    """

    igate: Array
    fgate: Array
    output: Tensor
    read: Callable[[Tensor], Array] = field(default=as_array, repr=False, compare=False)

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output by name."""
        return {"D~": self.output}

    def of(self, name: str) -> Array:
        """Return the values of an output."""
        return {"D~": self.dtilde}[name]

    @cached_property
    def dtilde(self) -> Array:
        """D~ as float64, (B, NH, S, S)."""
        return self.read(self.output)


@dataclass(frozen=True)
class Gradients:
    """One backward call: the gates and the cotangent it saw, and both gradients, all float64.

    di, df: (B, NH, S). tensors: the same two, (B, NH, S, 1), as they were returned. detached: the output
    asked for no gradient, so they are zeros.
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
        """Return the values of the gradient of a gate."""
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
    """The tensors of one call, (B, NH, S, 1) each."""

    igate: Tensor
    fgate: Tensor

    @property
    def named(self) -> Mapping[str, Tensor]:
        """Both by name."""
        return {"igate_preact": self.igate, "fgate_preact": self.fgate}


def arranged(gate: Tensor, layout: str) -> Tensor:
    """Show a gate (B, NH, S, 1) in the axes of the contract; contiguous ones stay contiguous."""
    if layout == "B NH S 1":
        return gate
    flat = gate.squeeze(-1)
    if layout == "B NH S":
        return flat
    swapped = flat.transpose(1, 2)
    return swapped.contiguous() if gate.is_contiguous() else swapped


def unarranged(gate: Tensor, layout: str) -> Tensor:
    """Return a gate in the axes of the contract as (B, NH, S, 1) again."""
    if layout == "B NH S 1":
        return gate
    return (gate if layout == "B NH S" else gate.transpose(1, 2)).unsqueeze(-1)

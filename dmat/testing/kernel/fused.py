"""Inputs, output and gradients of one call of a fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from dmat.strategies.recipes.qkv import Places
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import as_array

NOTHING: Mapping[str, object] = MappingProxyType({})


# The tensors of a call. "g": the gate in the contract's form. "b", "s": beta and S_0 of delta rules. "z": the
# gate of the output.
NAMES = ("q", "k", "v", "i", "g", "b", *PARAMETERS, "z", "s")
PER_TIME = ("i", "g", "b")  # one number a time; "g" one a channel where gates differ by channel
LAST = "S"  # the name of the last state


@dataclass(frozen=True)
class Inputs:
    """The tensors of one call: q, k (B, NH, S, K), v (B, NH, S, V), i, g, b (B, NH, S, 1).

    i, g or b is None if the kernel does not take it. s: the state that the call begins with, in the kernel's
    own layout, or None. A_log or A: (NH,), and dt_bias: (NH,) or (NH, K), parameters of the gates, or None.
    D: (NH,) or (NH, V), and z: (B, NH, S, V), or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    i: Tensor | None
    g: Tensor | None
    column: Places = field(repr=False, compare=False)
    b: Tensor | None = None
    s: Tensor | None = None
    A_log: Tensor | None = None
    A: Tensor | None = None
    dt_bias: Tensor | None = None
    D: Tensor | None = None
    z: Tensor | None = None

    @property
    def named(self) -> dict[str, Tensor]:
        """Return the tensors that the kernel takes, in the order of the call; a state comes last."""
        return {name: x for name in NAMES if (x := getattr(self, name)) is not None}

    def part(self, start: int, end: int) -> Inputs:
        """Return the inputs restricted to the times start <= t < end, without a state if start > 0."""
        cut: dict[str, Tensor | None] = {
            name: x[:, :, start:end] for name, x in self.named.items() if name not in ("s", *PARAMETERS)
        }
        cut["s"] = None if start else self.s
        return replace(self, **cut)  # type: ignore[arg-type]  # only tensors are named

    def with_(self, **tensors: Tensor | None) -> Inputs:
        """Return the inputs with some tensors replaced, by name."""
        return replace(self, **tensors)  # type: ignore[arg-type]  # only tensors are named


@dataclass(frozen=True)
class FusedRun:
    """One forward call: the exact values of its inputs, and the output that it returned, (B, NH, S, V).

    read: the function that copies a result's values to float64. state: the last state of a delta rule, in the
    kernel's own layout; None if it is not judged. state_layout: that layout.
    """

    inputs: CallInputs
    output: Tensor
    read: Callable[[Tensor], Array] = field(default=as_array, repr=False, compare=False)
    state: Tensor | None = None
    state_layout: str = "BHKV"

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """The output tensor, by name, and the last state as (B, NH, K, V) if it is judged."""
        if self.state is None:
            return {"o": self.output}
        return {"o": self.output, LAST: self.state.mT if self.state_layout == "BHVK" else self.state}

    def of(self, name: str) -> Array:
        """Return the values of the named output as float64."""
        if name == "o":
            return self.o
        assert self.state is not None
        return as_bhkv(self.read(self.state), self.state_layout)

    @cached_property
    def o(self) -> Array:
        """The output as float64."""
        return self.read(self.output)


@dataclass(frozen=True)
class FusedGradients:
    """One backward call: its cotangent W, and the gradient of each input, by name, float64.

    The gradients of PARAMETERS are (1, NH, n), those of i, g and b (B, NH, S), that of g (B, NH, S, K)
    where gates differ by channel; the others have the input's shape. detached: the output
    did not require a gradient, so all gradients are zeros. pulled: the true gradients. bounds: their allowed
    errors. Both compute a value when it is first read; their classes are those of the kind of operator.
    """

    run: FusedRun
    W: Array
    tensors: dict[str, Tensor]
    detached: bool
    pulled: Any
    bounds: Any

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradients by the name of their input."""
        return self.tensors

    def of(self, name: str) -> Array:
        """Return the values of the named input's gradient."""
        gradient = self.run.read(self.tensors[name])
        return as_judged(name, gradient, self.run.state_layout, by_channel=self.run.inputs.by_channel)


def as_judged(name: str, gradient: Array, state_layout: str, *, by_channel: bool) -> Array:
    """Return the gradient of an input, in the shape of the input's tensor, as it is judged."""
    if name == "s":
        return as_bhkv(gradient, state_layout)
    if name in PARAMETERS:
        return gradient[None, :, None] if gradient.ndim == 1 else gradient[None]
    return gradient[..., 0] if name in per_time(by_channel) else gradient


def as_bhkv(state: Array, layout: str) -> Array:
    """Return a state in a kernel's layout, "BHKV" or "BHVK", as (B, NH, K, V); or one so in that layout."""
    return np.swapaxes(state, -1, -2) if layout == "BHVK" else state


def per_time(by_channel: bool) -> tuple[str, ...]:
    """Return the inputs that have one number a time and head."""
    return tuple(name for name in PER_TIME if name != "g" or not by_channel)


def arranged(x: Tensor, layout: str, *, flat: bool) -> Tensor:
    """Return a tensor (B, NH, S, n) in the kernel's axes. flat: whether it loses its last axis, n = 1.

    A parameter of the gates stays as it is.
    """
    if x.ndim < 4:
        return x
    kept = x.squeeze(-1) if flat else x
    if layout == "BHSD":
        return kept
    swapped = kept.transpose(1, 2)
    return swapped.contiguous() if x.is_contiguous() else swapped

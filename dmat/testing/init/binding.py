"""One way to call a function: which parameter gets which tensor, in which axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmat.testing.init.readings import Sizes, Values
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array

PARAMETERS = ("A_log", "A", "dt_bias", "D")
PER_TIME = ("i", "g", "b")

NEAR = 2.0**-12  # float32 sums of some ten terms are far below it; every two readings are farther apart


class Unfit(Exception):
    """A call returned nothing that can be an output of these sizes."""


def distance(found: Array, true: Array) -> float:
    """Return the largest error of a row, in units of the row's largest entry; infinite for other shapes."""
    if found.shape != true.shape or not np.isfinite(true).all() or not np.isfinite(found).all():
        return float("inf")
    with np.errstate(all="ignore"):
        error, size = np.abs(found - true).max(-1), np.abs(true).max(-1)
        return float(np.max(np.where(error == 0, 0.0, error / size), initial=0.0))


@dataclass(frozen=True)
class Binding:
    """A function, the parameter of each role, the axes of its tensors, and other arguments.

    column: whether gates have a last axis of 1. index: the place of the output in a tuple that it returns;
    None: it returns no tuple. chunk: the parameter of the chunk size, or None.
    """

    fn: Callable[..., Any] = field(repr=False)
    roles: Mapping[str, str]
    layout: str
    column: bool
    knobs: Mapping[str, Any]
    index: int | None = None
    chunk: str | None = None
    device: str = "cpu"

    def arguments(self, values: Values, dtypes: Mapping[str, torch.dtype] | torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of a call by role, in the function's axes. dtypes: of each role, or of all."""
        found = {}
        for role in self.roles:
            x = values[role]
            if role not in PARAMETERS and self.layout == "BSHD":
                x = x.transpose(1, 2).contiguous()
            if role in PER_TIME and x.ndim == 3 and self.column:
                x = x[..., None]
            dtype = dtypes if isinstance(dtypes, torch.dtype) else dtypes[role]
            found[role] = x.to(self.device, dtype)
        return found

    def call(self, tensors: Mapping[str, Tensor], **more: Any) -> Any:
        """Return what the function returns."""
        given = {self.roles[role]: x for role, x in tensors.items()}
        return self.fn(**given, **{**self.knobs, **more})

    def taken(self, result: Any, sizes: Sizes) -> Tensor:
        """Return the output in a result, as (B, NH, S, V). Raises Unfit if it has none."""
        o = result if self.index is None else result[self.index]
        shape = (sizes.B, sizes.NH, sizes.S, sizes.V)
        if not isinstance(o, Tensor) or o.ndim != 4:
            raise Unfit(f"it returned {described(result)}")
        o = o.transpose(1, 2) if self.layout == "BSHD" else o
        if o.shape != shape:
            raise Unfit(f"it returned {described(result)}")
        return o

    def output(
        self,
        values: Values,
        sizes: Sizes,
        dtypes: Mapping[str, torch.dtype] | torch.dtype = torch.float32,
        **more: Any,
    ) -> Array:
        """Return the output of a call, (B, NH, S, V). Raises what the function raises, or Unfit."""
        with torch.no_grad():
            return as_array(self.taken(self.call(self.arguments(values, dtypes), **more), sizes))


def described(result: Any) -> str:
    """Return the shapes of what a function returned."""
    if isinstance(result, Tensor):
        return f"{str(result.dtype).removeprefix('torch.')} {tuple(result.shape)}"
    if isinstance(result, (tuple, list)):
        return f"({', '.join(map(described, result))})"
    return type(result).__name__


def first_line(error: BaseException) -> str:
    """Return the error as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:90]}"


def stored(values: Values, dtypes: Mapping[str, torch.dtype] | torch.dtype) -> dict[str, Tensor]:
    """Return the values as these formats store them."""
    return {
        role: x.to(dtypes if isinstance(dtypes, torch.dtype) else dtypes[role]).double()
        for role, x in values.items()
    }

"""Functions that compute D~ itself: of two gates, or of log gates alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.testing.init.binding import NEAR, described, first_line
from dmat.testing.init.readings import dtilde
from dmat.testing.init.search import FAR
from dmat.testing.init.signature import Signature
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array

B, NH, S = 2, 3, 8
LAYOUTS = {
    "B NH S 1": lambda x: x[..., None],
    "B NH S": lambda x: x,
    "B S NH": lambda x: x.transpose(1, 2).contiguous(),
}
DTYPES = ("float32", "bfloat16", "float64", "float16")


@dataclass(frozen=True)
class Found:
    """A reading of a function of gates: the arguments of its call, and its fields, code and what was seen."""

    call: str
    segment_sum: bool
    fields: dict[str, tuple[str, str]] = field(default_factory=dict)


def of_gates(fn: Callable[..., Any], signature: Signature, device: str) -> tuple[list[Found], str]:
    """Return the readings of a function of one or two tensors, and what else was seen of it."""
    names = [name for name in signature.tensors if name not in signature.optional]
    seen = ""
    found = []
    for reading in _readings(names, device) if len(names) <= 2 else ():
        try:
            off, rival, shapes = reading.tried(fn, torch.float32)
        except (Exception, SystemExit) as error:
            seen = first_line(error)
            continue
        seen = shapes
        if off <= NEAR < FAR < rival:
            found.append(reading.found(fn, off, rival))
    return found, seen


@dataclass(frozen=True)
class Reading:
    """One way to call a function of gates. swapped: whether the forget gate comes first."""

    names: list[str]
    layout: str
    device: str
    swapped: bool

    def gates(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return an input gate and a forget gate, (B, NH, S)."""
        random = torch.Generator().manual_seed(seed)
        i, f = torch.randn(2, B, NH, S, generator=random, dtype=torch.float64)
        return i, f

    def tried(self, fn: Callable[..., Any], dtype: torch.dtype) -> tuple[float, float, str]:
        """Return how far off a call is, how far the nearest rival is, and the shapes of its result."""
        i, f = (x.to(dtype).double() for x in self.gates(1))
        one = len(self.names) == 1
        gates = [logsigmoid(f)] if one else [f, i] if self.swapped else [i, f]
        given = [LAYOUTS[self.layout](x.to(self.device, dtype)) for x in gates]
        with torch.no_grad():
            result = fn(**dict(zip(self.names, given, strict=True)))
        if not isinstance(result, Tensor):
            return float("inf"), 0.0, described(result)
        true = dtilde(0 * i if one else i, logsigmoid(f).to(dtype).double() if one else logsigmoid(f))
        others = [
            dtilde(i, logsigmoid(f)),
            dtilde(i, f),
            dtilde(f, logsigmoid(i)),
            dtilde(0 * i, logsigmoid(f)),
        ]
        rivals = [x for x in others if _off(x, true) > FAR]
        found = as_array(result)
        return _off(found, true), min(_off(found, x) for x in rivals), described(result)

    def found(self, fn: Callable[..., Any], off: float, rival: float) -> Found:
        """Return this reading with its fields."""
        one = len(self.names) == 1
        order = ("fgate_preact", "igate_preact") if self.swapped else ("igate_preact", "fgate_preact")
        call = ", ".join(
            f"{name}={gate}" for name, gate in zip(self.names, ("l",) if one else order, strict=True)
        )
        new = Found(call, one)
        seen = f"within {off:.1g} of the true D~; the nearest other reading is {rival:.1g} off"
        if one:
            new.fields["reads"] = '"log"', seen
        else:
            new.fields["gate_layout"] = f'"{self.layout}"', seen
        kept, what = ["float32"], [f"float32 within {off:.1g}"]
        for dtype in DTYPES[1:]:
            try:
                own, _, _ = self.tried(fn, getattr(torch, dtype))
            except (Exception, SystemExit) as error:
                what.append(f"{dtype} raised {first_line(error)}")
                continue
            what.append(f"{dtype} within {own:.1g}")
            if own <= 4 * torch.finfo(getattr(torch, dtype)).eps:
                kept.append(dtype)
        kept = [name for name in DTYPES if name in kept and not (one and name == "float64")]
        new.fields["dtypes"] = str(tuple(kept)).replace("'", '"'), ", ".join(what)
        return new


def _readings(names: list[str], device: str) -> Iterator[Reading]:
    if len(names) == 1:
        yield Reading(names, "B NH S", device, False)
        return
    for layout, swapped in itertools.product(LAYOUTS, (False, True)):
        yield Reading(names, layout, device, swapped)


def _off(found: Array, true: Array) -> float:
    """Return the largest error on and below the diagonal over the largest entry; above it, -inf is due."""
    if found.shape != true.shape:
        return float("inf")
    lower = np.tri(S, dtype=bool)
    if not np.isneginf(found[..., ~lower]).all():
        return float("inf")
    return float(np.abs(found[..., lower] - true[..., lower]).max() / np.abs(true[..., lower]).max())

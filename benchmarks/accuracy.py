"""Errors of the operator over its bound on random cases, and of operator and formulas against S."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from dmat import dtilde
from dmat.testing.bounds.dtilde import forward_bound
from dmat.testing.bounds.formats import Format, Rounding
from dmat.testing.oracle.arithmetic import FINITE, Array
from dmat.testing.oracle.dtilde import Forward

from .contestants import FORMULAS

# Of 10,000 cases so many have these lengths: what is short shows most, what is long costs most.
LONG = {256: 60, 1024: 12, 4096: 2}
SHORT = 64

CONTESTANTS = {"dtilde": dtilde, **FORMULAS}


@dataclass(frozen=True)
class Worst:
    """The worst of some cases: its error over the bound, and where it was seen."""

    dtype: str
    cases: int
    ratio: float
    case: int
    S: int


def worst(dtype: str, cases: int) -> Worst:
    """Try random gates to +-1e4 at S to 4096, in class (window, float64); case number `case` is its seed."""
    lengths = [S for S, of_10000 in LONG.items() for _ in range(of_10000 * cases // 10000)]
    found = Worst(dtype, cases, 0.0, -1, 0)
    for case in track(range(cases), description=f"accuracy {dtype}"):
        generator = np.random.default_rng(case)
        S = lengths[case] if case < len(lengths) else int(generator.integers(1, SHORT + 1))
        ratio = over_bound(*random_gates(generator, S, dtype))
        if ratio > found.ratio or np.isnan(ratio):
            found = Worst(dtype, cases, ratio, case, S)
    return found


def random_gates(generator: np.random.Generator, S: int, dtype: str) -> tuple[Tensor, Tensor]:
    """Gates (1, 1, S, 1) of any scale from 1e-3 to 1e4, each of a scale of its own in half of the cases."""
    i, f = (
        torch.from_numpy(generator.uniform(-1, 1, S) * 10.0 ** generator.uniform(-3, 4, scales))
        for scales in generator.choice([1, S], 2)
    )
    return tuple(x.reshape(1, 1, S, 1).to(getattr(torch, dtype)) for x in (i, f))  # type: ignore[return-value]


def over_bound(i: Tensor, f: Tensor) -> float:
    """The worst |error| / bound of an entry; NaN or infinity where a finite entry is none."""
    dtype = str(i.dtype).removeprefix("torch.")
    truth = _truth(i, f)
    bound = forward_bound(truth, Rounding(Format.of(dtype), Format.of("float64")))
    error = _error(dtilde(i, f), truth)
    judged = (truth.kind == FINITE) & ~bound.overflow & ~bound.free
    return float(np.max((error + truth.slack)[judged] / bound.bound[judged], initial=0.0))


def _truth(i: Tensor, f: Tensor) -> Forward:
    igate, fgate = (x.squeeze(-1).double().numpy() for x in (i, f))
    return Forward.of(igate, fgate, wide=True)


def _error(D: Tensor, truth: Forward) -> Array:
    return np.abs((D.double().numpy() - truth.value.hi) - truth.value.lo)


def relative_errors(S: int, first: float) -> dict[str, float]:
    """The worst relative error in float32 of an entry that is not tiny, by contestant.

    first: the forget gate at 0, which no window holds, and which differences of cumulative sums do.
    """
    generator = np.random.default_rng(S)
    i, f = (torch.from_numpy(generator.standard_normal(S)).float().reshape(1, 1, S, 1) for _ in "if")
    f[..., 0, 0] = first
    truth = _truth(i, f)
    size = np.abs(truth.value.hi[0, 0])
    past = np.tri(S, S, dtype=bool) & (size > 1e-3)
    errors = {name: _error(function(i, f), truth)[0, 0] for name, function in CONTESTANTS.items()}
    return {name: float(np.max(error[past] / size[past], initial=0.0)) for name, error in errors.items()}

"""Integers in fused kernels: the entries of true values that every right kernel returns to the bit."""

from __future__ import annotations

import numpy as np
import torch

from dmat.testing.bounds.formats import FusedRounding
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.verdict.finding import as_array


def is_held(value: Array, dtype: torch.dtype) -> Mask:
    """Return where the dtype holds the value."""
    return np.asarray(as_array(torch.from_numpy(value).to(dtype)) == value)


def exact_output(truth: Truth, rounding: FusedRounding, dtype: torch.dtype) -> tuple[Array, Mask]:
    """Return the true output, (B, NH, S, V), and the entries whose sums stay within 8 bits.

    dtype: that of the output. The law of values judges what a float16 or a subnormal cannot hold.
    """
    sizes = truth.inputs.heads.total(truth.sizes @ np.abs(truth.inputs.v))
    fits = np.asarray(sizes < 256) & is_held(truth.o, dtype)
    large = np.asarray((np.abs(truth.o) >= rounding.output.smallest_normal) | (truth.o == 0))
    return truth.o, fits & large


def _unit(truth: Truth) -> float:
    """Return the power of two that all terms are integers of: of -1, 0 and 1 over the scale, q is a part."""
    sizes = np.abs(truth.inputs.q)
    return truth.scale * float(sizes[sizes > 0].min(initial=np.inf))


def sums_fit(pulled: Pulled, rounding: FusedRounding) -> Mask:
    """Return whether the formats hold every partial sum of the gradients, (B, NH).

    Values that are stored or summed, at most all terms together, must be within 1/u of the coarsest format.
    Values that may be an operand of a product (q.k, W.v, the state k v and its gradient q W) must be within
    1/u of the operands' format too.
    """
    truth, unit = pulled.truth, _unit(pulled.truth)
    q, k, v = np.abs(truth.inputs.q * truth.scale / unit), np.abs(truth.inputs.k), np.abs(truth.inputs.v)
    W, heads = np.abs(pulled.W_each), truth.inputs.heads
    across, along = "bhtn,bhsn->bhts", "bhtn,bhtm->bhnm"
    operands = [np.einsum(across, *x) for x in ((q, k), (W, v))]
    operands += [np.einsum(along, *x) for x in ((k, v), (q, W))]
    largest = np.max([heads.total(x.max((-1, -2), initial=0.0)) for x in operands], axis=0)
    stored = max(x.u for x in (rounding.accumulator, rounding.products, rounding.gates, rounding.output))
    total = heads.total(pulled.sizes.sum((-1, -2))) / unit
    return np.asarray((total < 1 / stored) & (largest <= 1 / max(stored, rounding.operands.u)))

"""Laws of structure of fused kernels: the shape, the exact zeros above the diagonal, integers."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import EXACT, PROBED
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import FUSED
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.finding import as_array
from dmat.testing.verdict.require import require_same


@law(PROBED, bound=EQUAL_BITS, kinds=(FUSED,))
def test_law_future(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """The future is 0, exactly: o[t] has nothing of v_s for s > t.

    Why: What is masked by a small number, or after exp, leaks tomorrow into today.
    Bound: zero.
    """
    inputs = subject.inputs(gates, qkv)
    run = subject.run_of(inputs)
    S = gates.shape[-1]
    later = np.zeros((S, run.o.shape[-1]), dtype=bool)
    for s, c in enumerate(inputs.column):
        if c >= 0:
            later[:s, c] = True
    where = np.broadcast_to(later, run.o.shape) & np.isfinite(run.o)
    if subject.contract.positive:  # a zero of theirs is e^-300
        return
    require_same("o", run.o, np.zeros_like(run.o), where, "column c is that of a later source alone")


@law(EXACT, bound=EQUAL_BITS, kinds=(FUSED,), needs=(needs.integers,))
def test_law_exact(subject: FusedSubject, gates: Gates, qkv: QKV) -> None:
    """On integers the output is exact: gates open or closed for good, q, k, v of -1, 0 and 1.

    Why: Every fault of mask, index, chunk or head shows on integers, with no tolerance at all.
    Bound: zero: E is 1 or 0 in any order of summation, and sums stay within 8 bits.
    """
    run = subject.run(gates, qkv)
    truth = subject.truth(run.inputs)
    held = as_array(torch.from_numpy(truth.o).to(run.output.dtype))
    fits = np.asarray((truth.sizes @ np.abs(run.inputs.v)) < 256) & (held == truth.o)
    # What a float16 or a subnormal cannot hold is the business of the law of values.
    large = np.asarray((np.abs(truth.o) >= subject.rounding.output.smallest_normal) | (truth.o == 0))
    require_same("o", run.o, truth.o, fits & large)

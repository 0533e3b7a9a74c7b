"""Laws of locality of fused kernels: row t of a head reads times up to t of that head, and nothing else."""

from __future__ import annotations

import numpy as np

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import PLACES
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import FUSED
from dmat.testing.kernel.fused import Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.verdict.require import require_same, require_within


def _with_gate(
    subject: FusedSubject, inputs: Inputs, head: tuple[int, int], t: int, value: float
) -> tuple[int, int]:
    """Put a special value into the forget gate of the first value head that reads this head; return that."""
    assert inputs.g is not None
    NH, form = inputs.q.shape[1], subject.head_form(1)
    first = head[0], form.members(head[1], NH)[0]
    closed = value == -float("inf") and subject.contract.gate == "decay"
    inputs.g[(*first, t)] = 0.0 if closed else value
    return first


@law(PLACES, bound=EQUAL_BITS, kinds=(FUSED,), needs=(needs.gate, needs.special_value("nan")))
def test_law_nan_containment(
    subject: FusedSubject, gates: Gates, qkv: QKV, head: tuple[int, int], t: int
) -> None:
    """A NaN gate at t leaves all rows before t, and all other heads, as they were.

    Why: One bad token must not take the whole batch.
    Bound: zero.
    """
    before, inputs = subject.run(gates, qkv), subject.inputs(gates, qkv)
    first = _with_gate(subject, inputs, head, t, float("nan"))
    after = subject.call_fused(inputs)
    rows = np.ones(before.o.shape, dtype=bool)
    rows[(*first, slice(t, None))] = False
    require_same("o", subject.read(after), before.o, rows, f"the gate of head {first} at {t} is NaN")


@law(PLACES, bound=(FusedBounds.output, DeltaBounds.output), kinds=(FUSED,), needs=(needs.gate, needs.resets))
def test_law_closed_gates(
    subject: FusedSubject, gates: Gates, qkv: QKV, head: tuple[int, int], t: int
) -> None:
    """Closed gates reset: a log gate of -inf lets nothing cross it, and touches nothing else.

    Why: A reset cuts the sequence; cumulative sums turn it into -inf - -inf, clamps let it leak.
    Bound: docs/fused.md section 2, the output; 0 across.
    """
    inputs = subject.inputs(gates, qkv)
    first = _with_gate(subject, inputs, head, t, -float("inf"))
    run = subject.run_of(inputs)
    require_within(run.o, subject.expected(run, f"the gate of head {first} at {t} is -inf"))

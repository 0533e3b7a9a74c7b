"""Laws of locality of fused kernels: row t of a head reads times up to t of that head, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from dmat.properties import needs
from dmat.strategies import QKV, Gates
from dmat.strategies.cases.fused import PLACES, RIVALS
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.bounds.named import EQUAL_BITS
from dmat.testing.contract import FUSED
from dmat.testing.kernel.fused import FusedRun, Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import law
from dmat.testing.oracle.arithmetic import Mask
from dmat.testing.verdict.require import require_same, require_within


def changed(
    subject: FusedSubject, gates: Gates, qkv: QKV, rival: Gates, noise: int, keep: Mask
) -> tuple[FusedRun, FusedRun]:
    """Call on the inputs, and on others that agree with them just where told; shapes and strides alike."""
    before, after = subject.inputs(gates, qkv), subject.inputs(gates, qkv)
    random = np.random.default_rng(noise)
    other = dict(zip("ig", rival.dense(), strict=True))
    for name, x in after.named.items():
        if name in other:
            values = other[name].to(x.device)
        elif name != "v" and (subject.contract.distinct_keys or subject.contract.positive):
            continue
        else:
            low = 0.5 if subject.contract.positive else -2.0
            values = torch.from_numpy(random.uniform(low, 2.0, size=tuple(x.shape))).to(x.device, x.dtype)
        x[...] = torch.where(torch.from_numpy(keep)[..., None].to(x.device), x, values)
    return subject.run_of(before), subject.run_of(after)


@law(RIVALS, bound=EQUAL_BITS, kinds=(FUSED,), needs=(needs.bits,))
def test_law_locality(
    subject: FusedSubject, gates: Gates, qkv: QKV, rival: Gates, noise: int, head: tuple[int, int], t: int
) -> None:
    """Change all that o[t] does not read, later times and other heads, and it stays, bit for bit.

    Why: Stray reads, wrong strides and heads, a maximum over the whole row: all change it from outside.
    Bound: zero.
    """
    keep = np.zeros(gates.shape, dtype=bool)
    keep[(*head, slice(0, t + 1))] = True
    before, after = changed(subject, gates, qkv, rival, noise, keep)
    rows = np.broadcast_to(keep[..., None], before.o.shape)
    require_same("o", after.o, before.o, rows, "all it reads was kept, all else changed")


@law(RIVALS, bound=(EQUAL_BITS, FusedBounds.output), kinds=(FUSED,))
def test_law_causality(
    subject: FusedSubject, gates: Gates, qkv: QKV, rival: Gates, noise: int, t: int
) -> None:
    """Rows up to t do not read what comes after t.

    Why: A model that decodes step by step sees prefixes only.
    Bound: zero, or the bound of values where the contract says causal="bound".
    """
    keep = np.zeros(gates.shape, dtype=bool)
    keep[..., : t + 1] = True
    before, after = changed(subject, gates, qkv, rival, noise, keep)
    note = "only later times were changed"
    if subject.contract.causal == "bits" and subject.contract.deterministic:
        require_same("o", after.o, before.o, np.broadcast_to(keep[..., None], before.o.shape), note)
    else:
        past = (slice(None), slice(None), slice(0, t + 1), slice(None))
        require_within(after.o[past], subject.expected(after).part(past).noted(note))


@law(RIVALS, bound=EQUAL_BITS, kinds=(FUSED,), needs=(needs.determinism,))
def test_law_independence(
    subject: FusedSubject, gates: Gates, qkv: QKV, rival: Gates, noise: int, head: tuple[int, int]
) -> None:
    """A head of a batch reads nothing of another.

    Why: A wrong stride factor reads the neighbour's gates, and shows only if heads differ.
    Bound: zero.
    """
    keep = np.zeros(gates.shape, dtype=bool)
    keep[head] = True
    before, after = changed(subject, gates, qkv, rival, noise, keep)
    own = np.broadcast_to(keep[..., None], before.o.shape)
    require_same("o", after.o, before.o, own, "only other heads were changed")


def _with_gate(subject: FusedSubject, inputs: Inputs, head: tuple[int, int], t: int, value: float) -> None:
    """Put a special value into the forget gate at this place."""
    assert inputs.g is not None
    inputs.g[(*head, t)] = value


@law(PLACES, bound=EQUAL_BITS, kinds=(FUSED,), needs=(needs.gate, needs.special_value("nan")))
def test_law_nan_containment(
    subject: FusedSubject, gates: Gates, qkv: QKV, head: tuple[int, int], t: int
) -> None:
    """A NaN gate at t leaves all rows before t, and all other heads, as they were.

    Why: One bad token must not take the whole batch.
    Bound: zero.
    """
    before, inputs = subject.run(gates, qkv), subject.inputs(gates, qkv)
    _with_gate(subject, inputs, head, t, float("nan"))
    after = subject.call_fused(inputs)
    keep = np.ones(gates.shape, dtype=bool)
    keep[(*head, slice(t, None))] = False
    rows = np.broadcast_to(keep[..., None], before.o.shape)
    require_same("o", subject.read(after), before.o, rows, f"the gate of head {head} at {t} is NaN")


@law(PLACES, bound=FusedBounds.output, kinds=(FUSED,), needs=(needs.gate, needs.resets))
def test_law_closed_gates(
    subject: FusedSubject, gates: Gates, qkv: QKV, head: tuple[int, int], t: int
) -> None:
    """Closed gates reset: a log gate of -inf lets nothing cross it, and touches nothing else.

    Why: A reset cuts the sequence; cumulative sums turn it into -inf - -inf, clamps let it leak.
    Bound: docs/fused.md section 2, the output; 0 across.
    """
    inputs = subject.inputs(gates, qkv)
    _with_gate(subject, inputs, head, t, -float("inf"))
    run = subject.run_of(inputs)
    require_within(run.o, subject.expected(run, f"the gate of head {head} at {t} is -inf"))

"""T = (I + A)^-1 of the chunk and head in which a finding on a delta rule lies: docs/fused.md section 5.

A[i, j] = beta_i (k_i . k_j) exp(G_i - G_j) for i > j: it is large where keys overlap and little is forgotten.
T multiplies the values and keys of a chunk, and all errors of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dmat.strategies.recipes.qkv import DeltaQKV
from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.delta_chunk import Chunk, pair
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.explain.pattern import head_name
from dmat.testing.kernel.fused import LAST
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import DeltaTruth
from dmat.testing.verdict.finding import Example, Finding, axes_of

TIMES = ("t", "s", "k")  # the names of axes of times


@dataclass(frozen=True)
class Inverse:
    """T of one chunk of one head, (n, n), in float64.

    start: the time of its first row. row: the row of the finding's entry; None if the entry has no time, as
    one of a state. channel: the entry's channel of k, and its part of the row's overlaps, the sum of
    |k_i k_j| exp(G_i - G_j) over the rows j above; None if the entry has none, or nothing overlaps.
    """

    T: Array
    head: str
    start: int
    row: int | None
    channel: tuple[int, float] | None

    @property
    def largest(self) -> float:
        """The largest |T| below the diagonal, which is 1. It is 0 if no keys overlap."""
        return float(np.abs(np.tril(self.T, -1)).max())

    @property
    def title(self) -> str:
        """The head, the times, the largest |T|, and what is framed."""
        first = f"T = (I + A)^-1 of {self.head}, t={self.start}..{self.start + len(self.T) - 1}"
        if self.row is not None:
            first += f"; framed: t={self.start + self.row}"
        second = f"|T| up to {self.largest:.3g} below the diagonal"
        if self.channel is not None:
            second += f"; {self.channel[1]:.0%} of the row's overlap is in d={self.channel[0]}"
        return f"{first}\n{second}"


@dataclass(frozen=True)
class _Place:
    """Where a finding lies: its batches and value heads, its time, its channel, None where it has none."""

    heads: list[tuple[int, int]]
    time: int | None = None
    channel: int | None = None


def inverse_of(example: Example, subject: Subject | None) -> Inverse | None:
    """Return T where the finding lies, or None: not of a delta rule in chunks, or not of one plain call.

    A case with more parts than gates and qkv is called on other inputs than these, or in parts. Where a
    finding sums over heads, batches or chunks, T is that with the largest entry.
    """
    if not isinstance(subject, DeltaSubject) or example.case.keys() != {"gates", "qkv"}:
        return None
    try:
        return _built(example, subject)
    except Exception:  # a case whose T cannot be built must not cost the picture
        return None


def _built(example: Example, subject: DeltaSubject) -> Inverse | None:
    with np.errstate(all="ignore"):
        bounds = _bounds(example, subject)
        place = _place_of(example.finding, bounds.truth)
        if place is None:
            return None
        chunks = [
            (start, _chunk(bounds, start, end)) for start, end in _spans(example.finding, place, bounds)
        ]
        each = [(chunk.T[head], head, start, chunk) for start, chunk in chunks for head in place.heads]
        known = [one for one in each if one[-1].n > 1 and np.isfinite(one[0]).all()]
        if not known:
            return None
        T, head, start, chunk = max(known, key=lambda one: float(np.abs(np.tril(one[0], -1)).max()))
        row = None if place.time is None else place.time - start
        return Inverse(T, head_name(head), start, row, _part_of_channel(chunk, head, row, place.channel))


def _bounds(example: Example, subject: DeltaSubject) -> DeltaBounds:
    """Return the bounds of the case's call. Nothing is called: T needs no state, and inputs on the CPU."""
    here, qkv = replace(subject, device="cpu"), example.case["qkv"]
    assert isinstance(qkv, DeltaQKV)
    inputs = here.read_inputs(here.inputs(example.case["gates"], replace(qkv, state=0)))
    bounds = here.bounds_under(here.truth(inputs), here.contract, here.rounding)
    assert isinstance(bounds, DeltaBounds)
    return bounds


def _place_of(finding: Finding, truth: DeltaTruth) -> _Place | None:
    """Return where a finding lies; None if its entries are not those of one call."""
    names, evidence = axes_of(finding.quantity, len(finding.index)), finding.evidence
    if evidence is None or names[:2] != ("b", "h") or len(names) != len(finding.index):
        return None
    where = dict(zip(names, finding.index, strict=True))
    times = [axis for axis, name in enumerate(names) if name in TIMES]
    if any(evidence.wrong.shape[axis] != truth.S for axis in times):
        return None  # a part of a call
    batches, heads, (B, NH) = [where["b"]], [where["h"]], truth.inputs.q.shape[:2]
    if finding.quantity in ("dq", "dk"):  # of a key head
        heads = truth.inputs.heads.members(heads[0], NH // truth.inputs.heads.group)
    if finding.quantity.removeprefix("d") in PARAMETERS:
        batches = list(range(B))
    time = finding.index[times[0]] if times else None
    return _Place([(b, h) for b in batches for h in heads], time, where.get("d"))


def _spans(finding: Finding, place: _Place, bounds: DeltaBounds) -> list[tuple[int, int]]:
    """Return the times of the chunks that may be shown."""
    if place.time is not None:
        return [(start, end) for start, end in bounds.spans if start <= place.time < end]
    return {LAST: bounds.spans[-1:], f"d{LAST}0": bounds.spans[:1]}.get(finding.quantity, bounds.spans)


def _chunk(bounds: DeltaBounds, start: int, end: int) -> Chunk:
    return Chunk(bounds.given(start, end), bounds.rates, bounds.inversion, np.zeros_like(bounds.truth.first))


def _part_of_channel(
    chunk: Chunk, head: tuple[int, int], row: int | None, d: int | None
) -> tuple[int, float] | None:
    """Return the channel, and its part of the row's overlaps."""
    if row is None or d is None:
        return None
    k, E = chunk.k[head], chunk.E[head]
    own = k[:, d : d + 1]
    of_channel = pair(own, own, E[..., d : d + 1] if E.shape[-1] > 1 else E)
    part, whole = (float((x * chunk.strict)[row].sum()) for x in (of_channel, pair(k, k, E)))
    return (d, part / whole) if whole > 0 else None

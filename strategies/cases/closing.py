"""The ladder where rare faults of chunks show: gates that close at their edges, long calls, a wide v.

A decay that is missing at one row of a chunk shows only where the gate of that row closes. docs/fused.md
section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Background, Constant, Edited, Heads
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, delta_ladder, plain_qkv
from dmat.strategies.recipes.recipe import Case

EDGES = ((65, 16), (129, 64))  # lengths just past 64 and 128, and the size of the chunks whose edges close
WIDE = 130  # columns of v: past a tile of 128


def _closing(S: int, size: int, opened: float, closed: float) -> Background:
    """Return gates that close at the first row of each chunk in one head, at the last row in the next."""
    firsts, lasts = range(0, S, size), range(size - 1, S, size)
    heads = [tuple(((0, 0, t), closed) for t in rows) for rows in (firsts, lasts)]
    return Heads(tuple(Edited(Constant(opened), edits) for edits in heads))


def _recipe(domain: FusedDomain, S: int) -> QKV:
    """Return a recipe of integers with a seed."""
    if domain.scaling.erases:
        return delta_ladder(domain, S, "integers", several=True)[0]
    return plain_qkv(domain, S, "integers", seed=1, pull=1, regime=domain.scaling.integers)


def closing_ladder(domain: FusedDomain, values: tuple[float, ...]) -> Iterator[Case]:
    """Yield the cases of delta rules and gates by channel. values: an open gate, and a closed one if any."""
    if not (domain.scaling.erases or domain.contract.by_channel):
        return
    chunk, every = domain.contract.chunk, not domain.slow and domain.accumulator != "float64"
    edges = [(domain.past_chunks()[0], chunk)] if chunk else []
    for S, size in [*edges, *(EDGES if every else ())] if len(values) > 1 else []:
        gates = Gates(domain.dtype, (1, 2, S), Constant(0.0), _closing(S, size, *values))
        yield {"gates": gates, "qkv": _recipe(domain, S)}
    S = domain.shortest(3)[-1]
    gates, qkv = Gates(domain.dtype, (1, 1, S), Constant(0.0), Constant(values[0])), _recipe(domain, S)
    yield {"gates": gates, "qkv": replace(qkv, V=domain.value_size(WIDE, qkv.K))}

"""The cases of equal terms: sums that are long in S, in K and in V, under a contract with half operands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.choose import Draw, choose
from dmat.strategies.domain import Domain
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.equal import SCORES
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV
from dmat.strategies.recipes.recipe import Case

LONG = 400  # 0.7 times so much is 280: a sum of bfloat16 stays at 256
LONG_BY_CHANNEL = 96  # each channel is a head of the oracle
WIDE = 184  # 0.7 times so much is 129; bfloat16 finds 111, float16 127
SHORT = 4
OPEN, OF_WEIGHT = 9.0, 4.6  # softplus(-9) is 1e-4, and gates have a gradient there; softplus(-4.6) is 0.01


def _length(domain: FusedDomain, wanted: int) -> int:
    """Return the longest length that is allowed, at most the wanted one, or the shortest."""
    if domain.contract.lengths is not None:
        return max((S for S in domain.contract.lengths if S <= wanted), default=domain.contract.lengths[0])
    most = min(wanted, domain.max_seq or wanted) // domain.seq_multiple_of * domain.seq_multiple_of
    return max(most, domain.all_lengths[0])


def _gates(domain: FusedDomain, S: int) -> Gates:
    """Return gates that are open, or nearly so; where the weight is dt, dt is 0.01."""
    contract = domain.contract
    opened = OPEN if contract.from_preact else 0.0
    if contract.weight is not None:
        opened = OF_WEIGHT if contract.from_preact else -0.01
    return Gates(domain.dtype, (1, 1, S), fgate=Constant(0.0 if contract.gate == "fixed" else opened))


def _case(domain: FusedDomain, S: int, K: int, V: int, seed: int, pull: int) -> Case:
    V = 0 if domain.contract.V_equals_K else domain.value_size(V, K)
    return {"gates": _gates(domain, S), "qkv": QKV("equal", K, V or K, seed, pull=pull)}


def _shapes(domain: FusedDomain) -> list[tuple[int, int, int]]:
    """Return (S, K, V): long in S, in V and in K."""
    K = [K for K, _ in domain.scales]
    long = _length(domain, LONG_BY_CHANNEL if domain.contract.by_channel or domain.slow else LONG)
    short = _length(domain, SHORT)
    return [(long, K[0], 1), (short, K[0], WIDE), (_length(domain, 2 * SHORT), max(K), 4)]


def _ladder(own: Domain) -> Iterator[Case]:
    domain = cast(FusedDomain, own)
    seeds = 1 if domain.scaling.multiplies else len(SCORES)
    for S, K, V in _shapes(domain):
        for seed in range(1, 1 + seeds):
            for pull in (0, 1):
                yield _case(domain, S, K, V, seed, pull)


def _draw(draw: Draw, own: Domain) -> Case:
    domain = cast(FusedDomain, own)
    shape = choose(draw, _shapes(domain))
    return _case(domain, *shape, choose(draw, tuple(range(1, 10))), choose(draw, (0, 1)))


EQUAL = Cases(_draw, _ladder)

"""The cases of sizes: K and V around the tiles that kernels use, in a few short cases with dense q, k, v.

A kernel that never reads the channels past its last full tile, or writes no columns past the first, is right
at every small size. K and V differ in each case, so that one cannot stand for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import cast

from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.cases.fused import DENSE, two_calls
from dmat.strategies.cases.handed import CUTS
from dmat.strategies.domain import Domain
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.delta import ladder_fields
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, DeltaQKV, is_qkv
from dmat.strategies.recipes.recipe import Case

SIZES_OF_K = (2, 8, 24, 32, 33, 48, 64, 96, 128, 256)
SIZES_OF_V = (8, 2, 33, 48, 24, 64, 32, 128, 256, 96)
PAIRS = tuple(zip(SIZES_OF_K, SIZES_OF_V, strict=True))
SLOW_PAIRS = ((64, 24), (33, 48))  # in Triton's interpreter
PAST_CHUNKS = ((33, 256), (256, 33))  # what a chunk reads of the state before it has tiles of its own
PAST_CHUNKS_OF_DELTA = ((33, 256), (96, 33))  # each step of its oracle takes K x K products
MOST_TERMS = 2**20  # S^2 of a sum, times K where gates differ by channel: beyond, the oracle takes too long
MOST_OF_DELTA = 2**19  # S K^2
MILD = -0.125  # a log gate


def sizes_of(domain: FusedDomain, pairs: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Return (K, V) of these pairs, with what the contract states in place of its K and V.

    If the contract states both, return the stated sizes that are not drawn.
    """
    contract, stated = domain.contract, domain.stated_K
    free = isinstance(contract.V, int) and not contract.V_equals_K
    if contract.K is not None and free:
        pairs = tuple((stated[n % len(stated)], V) for n, (_, V) in enumerate(pairs))
    elif contract.K is not None:
        pairs = tuple((K, 1) for K in stated if K not in domain.usual_K)
    unlike = ((K, V + 1 if free and domain.value_size(V, K) == K else V) for K, V in pairs)
    return list(dict.fromkeys((K, domain.value_size(V, K)) for K, V in unlike))


def _gates(domain: FusedDomain, S: int) -> Gates:
    """Return gates of one head under which a state fades slowly."""
    fgate = -MILD * 16 if domain.contract.from_preact else max(MILD, domain.least / 2)
    return Gates(domain.dtype, (1, 1, S), fgate=Constant(0.0 if domain.contract.gate == "fixed" else fgate))


def _sized(domain: FusedDomain, S: int, pairs: tuple[tuple[int, int], ...]) -> Iterator[tuple[Gates, QKV]]:
    """Yield gates and recipes of q, k, v of these sizes for length S. Kinds with regimes take turns."""
    gates = _gates(domain, S)
    for n, (K, V) in enumerate(sizes_of(domain, pairs)):
        qkv = _qkv(domain, K, V, n)
        if _in_time(domain, S, K) and domain.has_gates(gates, K) and is_qkv(qkv, gates, domain):
            yield gates, qkv


def _in_time(domain: FusedDomain, S: int, K: int) -> bool:
    """Whether the oracle takes little time for these sizes."""
    if domain.scaling.erases:
        return S * K * K <= MOST_OF_DELTA
    return S * S * (K if domain.contract.by_channel else 1) <= MOST_TERMS


def _qkv(domain: FusedDomain, K: int, V: int, n: int) -> QKV:
    """Return the n-th recipe of dense q, k, v, of these sizes."""
    V = 0 if domain.contract.V_equals_K else V
    if domain.scaling.erases:
        fields = ladder_fields(domain.contract, "dense", K, several=False)[0]
        return DeltaQKV("dense", K, V, **fields)  # type: ignore[arg-type]  # the fields by name
    regimes = domain.scaling.regimes
    return QKV("dense", K, V, seed=1, pull=1, regime=regimes[n % len(regimes)])


def pairs_of(domain: FusedDomain) -> tuple[tuple[int, int], ...]:
    """Return the pairs (K, V) that a domain has time for: in float64 every entry is judged in balls."""
    few = domain.slow or domain.accumulator == "float64"
    return SLOW_PAIRS if few else PAIRS


def _dense_ladder(domain: FusedDomain) -> Iterator[Case]:
    short, [long] = domain.shortest(3)[-1], domain.past_chunks()
    cases = _sized(domain, short, pairs_of(domain))
    if pairs_of(domain) == PAIRS and long > short:
        past = PAST_CHUNKS_OF_DELTA if domain.scaling.erases else PAST_CHUNKS
        cases = chain(cases, _sized(domain, long, past))
    yield from ({"gates": gates, "qkv": qkv} for gates, qkv in cases)


def _cut_ladder(domain: FusedDomain) -> Iterator[Case]:
    both = ((S, n) for S in domain.shortest(4)[1:] for n in range(1, S) if two_calls(n, S, domain))
    for S, cut in list(both)[-1:]:
        for gates, qkv in _sized(domain, S, pairs_of(domain)):
            yield {"gates": gates, "qkv": qkv, "cut": cut}


def with_smallest_sizes(case: Case, domain: Domain) -> Iterator[tuple[tuple[int, int], Case]]:
    """Yield sizes (K, V) that the contract does not state, and the case with the smallest ones instead.

    K first, then V, then both; 0 stands for a size that stays. A V that is not 1 is stated; a V that must be
    K goes with it.
    """
    qkv = case.get("qkv")
    if not isinstance(domain, FusedDomain) or qkv is None:
        return
    contract, S = domain.contract, case["gates"].shape[-1]
    K, V, least = qkv.K, qkv.V or domain.value_size(S, qkv.K), domain.scales[0][0]
    open_K = contract.K is None and K != least
    open_V = contract.V == 1 and not contract.V_equals_K and V > 1
    if open_K:
        yield (K, 0), {**case, "qkv": replace(qkv, K=least)}
    if open_V:
        yield (0, V), {**case, "qkv": replace(qkv, V=1)}
    if open_K and open_V:
        yield (K, V), {**case, "qkv": replace(qkv, K=least, V=1)}


def _with(kind: Cases, further: Callable[[FusedDomain], Iterator[Case]]) -> Cases:
    """Return a kind of case whose ladder ends with further cases."""

    def ladder(domain: Domain) -> Iterator[Case]:
        yield from kind.ladder(domain)
        yield from further(cast(FusedDomain, domain))

    return replace(kind, ladder=ladder)


DENSE_SIZES = _with(DENSE, _dense_ladder)
CUTS_SIZES = _with(CUTS, _cut_ladder)

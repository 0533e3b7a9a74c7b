"""The cases in which a fused kernel hands states over: from call to call, and of packed sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from dmat.strategies.cases.fused import (
    TRIES,
    cases_of,
    draw_gates,
    forget_ladder,
    inputs_ladder,
    inside_of,
    recipes_for,
    two_calls,
)
from dmat.strategies.choose import Draw, between, choose
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Constant
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, DeltaQKV, draw_qkv
from dmat.strategies.recipes.recipe import Case

KINDS = ("one-hot", "dense")
SOME_CHUNK = 16  # of a kernel whose contract states none

# Gates, a QKV recipe, and the cut between two calls


def _draw_cut(draw: Draw, domain: FusedDomain) -> Case:
    gates = draw_gates(draw, domain)
    cuts = [n for n in range(gates.shape[-1] + 1) if two_calls(n, gates.shape[-1], domain)]
    if not cuts:
        gates = _longer(gates, domain)
        cuts = [n for n in range(gates.shape[-1] + 1) if two_calls(n, gates.shape[-1], domain)] or [0]
    qkv = draw_qkv(draw, domain, gates, choose(draw, KINDS))
    return {"gates": gates, "qkv": qkv, "cut": choose(draw, cuts)}


def _longer(gates: Gates, domain: FusedDomain) -> Gates:
    B, NH, _ = gates.shape
    wider = Gates(domain.dtype, (B, NH, domain.all_lengths[-1]))
    return wider if domain.has_gates(wider) else gates


def _cut_ladder(domain: FusedDomain) -> Iterator[Case]:
    lengths = dict.fromkeys((*domain.shortest(4), *domain.past_chunks(), domain.all_lengths[-1]))
    for S in lengths:
        cuts = [n for n in range(S) if two_calls(n, S, domain)]
        some = dict.fromkeys(cuts[:1] + cuts[len(cuts) // 2 : len(cuts) // 2 + 1] + cuts[-1:])
        for cut, fgate, igate in product(some, forget_ladder(domain)[:2], inputs_ladder(domain)[:2]):
            gates = Gates(domain.dtype, (1, 1, S), igate, fgate)
            for qkv in recipes_for(domain, gates, "one-hot")[:2] if domain.has_gates(gates) else ():
                yield {"gates": gates, "qkv": qkv, "cut": cut}
    for S in dict.fromkeys((*domain.shortest(3)[-1:], *domain.past_chunks())):
        gates = Gates(domain.dtype, (1, 2, S), Constant(0.0), forget_ladder(domain)[-1])
        if domain.has_gates(gates) and two_calls(S // 2, S, domain):
            for qkv in _matrices(domain, gates):
                yield {"gates": gates, "qkv": qkv, "cut": S // 2}


def _matrices(domain: FusedDomain, gates: Gates) -> list[QKV]:
    """Return a dense recipe whose states have several columns: of one column, a transpose is itself."""
    recipes = recipes_for(domain, gates, "dense")[-1:]
    if domain.contract.V_equals_K:
        return recipes
    return [replace(qkv, V=domain.value_size(3, qkv.K)) for qkv in recipes]


def _cut_inside(case: Case, domain: FusedDomain) -> bool:
    whole = any(inside_of(kind)(case, domain) for kind in KINDS)
    return whole and two_calls(case["cut"], case["gates"].shape[-1], domain)


def begins_of(S: int, cut: int, domain: FusedDomain) -> tuple[int, ...]:
    """Return the times at which the calls begin: two, or three where what is left after the cut is even."""
    second = (cut + S) // 2
    three = (S - cut) % 2 == 0 and two_calls(second - cut, S - cut, domain)
    return (0, cut, second) if three else (0, cut)


# Gates, a QKV recipe, and packed sequences that three calls take, each with the states of the call before it

Span = tuple[int, int]


def spans_of(S: int, cut: int, t: int, domain: FusedDomain) -> tuple[tuple[Span, ...], ...] | None:
    """Return the times of each packed sequence in each of three calls; None if the contract forbids that.

    A sequence has a short part before, a long one in the second call, and a short one after. In the second
    call the first is `cut` long and all others t; the rest of S is added to the last part. If t < cut there
    is no part before, and the first call begins anew. Where lengths of 0 are allowed, some parts are empty.
    """
    step, lengths = domain.all_lengths[0], list[tuple[int, ...]]()
    while True:
        n = len(lengths)
        before, after = step * (1 + n % 2), step
        part: tuple[int, ...] = (0 if t < cut else before, t if n else cut, after)
        if domain.zero_length and n:
            part = tuple(0 if n % 4 == place + 1 else size for place, size in enumerate(part))
        if sum(map(sum, lengths)) + sum(part) > S or n > S:
            break
        lengths.append(part)
    if len(lengths) < 2:
        return None
    lengths[-1] = (*lengths[-1][:-1], lengths[-1][-1] + S - sum(map(sum, lengths)))
    if not all(domain.has_length(size) for part in lengths for size in part if size or t >= cut):
        return None
    calls: list[list[Span]] = [[], [], []]
    at = 0
    for part in lengths:
        for call, size in zip(calls, part, strict=True):
            call.append((at, at + size))
            at += size
    sizes = [sum(end - start for start, end in call) for call in calls]
    fits = all(domain.has_length(size) for size in sizes[0 if sizes[0] else 1 :])
    return tuple(map(tuple, calls)) if fits else None


def _draw_packed(draw: Draw, domain: FusedDomain) -> Case:
    """Draw until there are two sequences or more, at most TRIES times; else take the first of the ladder."""
    case: Case = {}
    for _ in range(2 * TRIES):
        gates = draw_gates(draw, domain, one_batch=True)
        gates = replace(gates, igate_layout="contiguous", fgate_layout="contiguous")
        step, chunk, S = domain.all_lengths[0], domain.contract.chunk or SOME_CHUNK, gates.shape[-1]
        sizes = [n for n in (step, 2 * step, chunk, chunk + step, 2 * chunk + step) if n <= S]
        any_size = step * between(draw, 1, max(1, S // (2 * step)))
        offset = step * between(draw, 1, max(1, min(chunk, S // 2) // step))
        qkv = _plain_layout(draw_qkv(draw, domain, gates, "dense"))
        case = {"gates": gates, "qkv": qkv, "cut": offset, "t": choose(draw, [*sizes, any_size])}
        if _packed_inside(case, domain):
            return case
    return next(_packed_ladder(domain), case)


def _plain_layout(qkv: QKV) -> QKV:
    """Return the recipe with contiguous tensors, and without a state: the first call begins with none."""
    more: dict[str, Any] = {"state": 0} if isinstance(qkv, DeltaQKV) else {}
    return replace(qkv, layout="contiguous", **more)


def _packed_ladder(domain: FusedDomain) -> Iterator[Case]:
    step, chunk = domain.all_lengths[0], domain.contract.chunk or SOME_CHUNK
    past = chunk // step * step + step
    inside_chunk = [n // step * step for n in (chunk // 2, chunk - 1, chunk + 1)]
    sizes = [(step, step), (2 * step, 3 * step), (3 * step, 2 * step), *((n, past) for n in inside_chunk)]
    for (cut, t), number, heads in product(sizes, (3, 2), (2, 1)):
        S = cut + t * (number - 1) + 3 * step * number
        gates = Gates(domain.dtype, (1, heads, S), Constant(0.0), forget_ladder(domain)[-1])
        if S > domain.all_lengths[-1] or not domain.has_gates(gates):
            continue
        for qkv in _matrices(domain, gates):
            case = {"gates": gates, "qkv": _plain_layout(qkv), "cut": cut, "t": t}
            if _packed_inside(case, domain):
                yield case


def _packed_inside(case: Case, domain: FusedDomain) -> bool:
    gates, qkv = case["gates"], case["qkv"]
    contiguous = qkv.layout == gates.fgate_layout == gates.igate_layout == "contiguous"
    return (
        contiguous
        and gates.shape[0] == 1
        and getattr(qkv, "state", 0) == 0
        and inside_of("dense")(case, domain)
        and case["cut"] > 0
        and case["t"] > 0
        and spans_of(gates.shape[-1], case["cut"], case["t"], domain) is not None
    )


# Gates, a QKV recipe, and the length of the first of two packed sequences, for the states of each chunk


def _grids(domain: FusedDomain) -> list[tuple[int, int]]:
    """Return (S, cut): sequences pass the edge of a chunk, and the second begins inside one or on it."""
    chunk, step = domain.contract.chunk_states or SOME_CHUNK, domain.all_lengths[0]
    whole, half = -(-chunk // step) * step, max(step, chunk // 2 // step * step)
    cuts = dict.fromkeys((whole + half, step, whole, whole + step))
    both = [(cut + 2 * whole + half, cut) for cut in cuts] + [(whole + step, step)]
    return [(S, cut) for S, cut in both if two_calls(cut, S, domain) and domain.has_length(S)]


def _draw_chunks(draw: Draw, domain: FusedDomain) -> Case:
    S, cut = choose(draw, _grids(domain) or [(domain.all_lengths[-1], 0)])
    gates = domain.draw_gates_of(draw, (choose(draw, _batches(domain)), choose(draw, (1, 2)), S))
    if not domain.has_gates(gates):
        gates = Gates(domain.dtype, gates.shape)
    gates = replace(gates, igate_layout="contiguous", fgate_layout="contiguous")
    qkv = _plain_layout(draw_qkv(draw, domain, gates, "dense"))
    return {"gates": gates, "qkv": qkv, "cut": cut}


def _batches(domain: FusedDomain) -> tuple[int, ...]:
    return (1,) if domain.contract.packed else (1, 2)


def _chunks_ladder(domain: FusedDomain) -> Iterator[Case]:
    for (S, cut), B in product(_grids(domain), _batches(domain)):
        gates = Gates(domain.dtype, (B, 2, S), Constant(0.0), forget_ladder(domain)[-1])
        for qkv in _matrices(domain, gates) if domain.has_gates(gates) else ():
            yield {"gates": gates, "qkv": _plain_layout(qkv), "cut": cut}


def _chunks_inside(case: Case, domain: FusedDomain) -> bool:
    gates, qkv = case["gates"], case["qkv"]
    contiguous = qkv.layout == gates.fgate_layout == gates.igate_layout == "contiguous"
    alone = gates.shape[0] == 1 or not domain.contract.packed
    plain = contiguous and alone and getattr(qkv, "state", 0) == 0
    return plain and inside_of("dense")(case, domain) and two_calls(case["cut"], gates.shape[-1], domain)


CUTS = cases_of(_draw_cut, _cut_ladder, _cut_inside)
PACKED_STATES = cases_of(_draw_packed, _packed_ladder, _packed_inside)
CHUNK_STATES = cases_of(_draw_chunks, _chunks_ladder, _chunks_inside)

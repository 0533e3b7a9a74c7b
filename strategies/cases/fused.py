"""The kinds of case of fused kernels' laws: gates and a recipe of q, k, v. Each has a ladder and a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import cast

from dmat.strategies.cases.canonical import stacked
from dmat.strategies.cases.closing import closing_ladder
from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.choose import Draw, between, choose, seed
from dmat.strategies.drawing import draw_background
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Background, Constant, Edited, Ramp
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, delta_ladder, draw_qkv, is_qkv, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import constants, spikes

CLOSED_FOR_GOOD = -1024.0  # a gate whose exp is 0 in every format; 16 times it is exact in every format
TRIES = 4


def cases_of(
    draw: Callable[[Draw, FusedDomain], Case],
    ladder: Callable[[FusedDomain], Iterator[Case]],
    inside: Callable[[Case, FusedDomain], bool],
) -> Cases:
    """Make a kind of case for fused kernels. Their domain is always a FusedDomain, hence the casts."""
    return Cases(
        lambda drawn, domain: draw(drawn, cast(FusedDomain, domain)),
        lambda domain: ladder(cast(FusedDomain, domain)),
        lambda case, domain: inside(case, cast(FusedDomain, domain)),
    )


def inside_of(kind: str) -> Callable[[Case, FusedDomain], bool]:
    """Make the test that the contract allows the gates, and that the recipe is of this kind and fits them."""

    def inside(case: Case, domain: FusedDomain) -> bool:
        gates, qkv = case["gates"], case["qkv"]
        return qkv.kind == kind and domain.has_gates(gates, qkv.K) and is_qkv(qkv, gates, domain)

    return inside


def draw_gates(draw: Draw, domain: FusedDomain, *, zero: bool = False, one_batch: bool = False) -> Gates:
    """Draw gates until their sums do not overflow, at most TRIES times; else return gates of zero."""
    for _ in range(TRIES):
        B, NH, S = domain.draw_shape(draw, zero=zero)
        gates = domain.draw_gates_of(draw, (1 if one_batch else B, NH, S))
        if domain.has_gates(gates):
            return gates
    return Gates(domain.dtype, gates.shape)


# The ladder: constant gates at the shortest lengths, the ends of the input gate's range, heads that differ


def forget_ladder(domain: FusedDomain) -> list[Background]:
    """Return the canonical forget gates."""
    if domain.contract.gate == "fixed":
        return [Constant(0.0)]
    own = domain.gate_format
    every = [*(Constant(f) for f in constants(own)), *(fgate for _, fgate in spikes(own, 2))]
    ends = [(fgate.fill((1, 1, 2)).min(), fgate.fill((1, 1, 2)).max()) for fgate in every]
    return [
        fgate
        for fgate, (low, high) in zip(every, ends, strict=True)
        if domain.least <= low and high <= domain.most
    ]


def inputs_ladder(domain: FusedDomain) -> list[Background]:
    """Return the canonical input gates."""
    ends = domain.contract.i_range if domain.contract.igate else ()
    return [Constant(x) for x in dict.fromkeys((0.0, *ends))]


def _uneven(domain: FusedDomain, S: int, heads: tuple[int, int] = (2, 3)) -> Gates:
    """Return gates of several heads that all differ."""
    step = -0.25 if domain.contract.gate != "fixed" else 0.0
    fgate = (
        Ramp(max(-0.5, domain.least / 2), head_step=max(step, domain.least / 16)) if step else Constant(0.0)
    )
    high = domain.contract.i_range[1]
    igate = Ramp(0.0, head_step=min(0.25, high / 8)) if domain.contract.igate else Constant(0.0)
    return Gates(domain.dtype, (*heads, S), igate, fgate)


def gate_ladder(domain: FusedDomain) -> list[Gates]:
    """Return the canonical gates, shortest first."""

    def allowed(cases: list[Gates]) -> list[Gates]:
        return [gates for gates in cases if domain.has_gates(gates)]

    alone = [
        Gates(domain.dtype, (1, 1, S), igate, fgate)
        for n, S in enumerate(domain.shortest(3))
        for fgate in forget_ladder(domain)
        for igate in inputs_ladder(domain)[: 1 if n == 2 else None]
    ]
    uneven = [_uneven(domain, S) for S in domain.shortest(3)[-1:]]
    uneven += [_uneven(domain, S, (2, 1) if domain.slow else (2, 3)) for S in domain.past_chunks()]
    if not domain.slow:
        uneven.append(_uneven(domain, domain.all_lengths[0], (1, 8)))
    forget = forget_ladder(domain)
    some = dict.fromkeys((forget[1 % len(forget)], forget[-1]))
    long = [
        Gates(domain.dtype, (1, 1, S), igate, fgate)
        for S in domain.past_chunks()
        for fgate in some
        for igate in inputs_ladder(domain)
    ]
    # A gate that the contract does not allow is left out before the others are stacked.
    stacks = (stacked(allowed(cases), slow=domain.slow) for cases in (alone, long))
    return [*next(stacks), *allowed(list(dict.fromkeys(uneven))), *next(stacks)]


def recipes_for(domain: FusedDomain, gates: Gates, kind: str) -> list[QKV]:
    """Return the canonical QKV recipes for these gates: a plain one, and a seeded one with mixed signs."""
    S = gates.shape[-1]
    several = gates.shape[:2] != (1, 1)
    if domain.scaling.erases:
        return [qkv for qkv in delta_ladder(domain, S, kind, several=several) if is_qkv(qkv, gates, domain)]
    wider = domain.key_sizes(S)[:2][-1]  # with K = 1, a wrong scale and left-out channels do not show
    seeded = replace(plain_qkv(domain, S, kind, seed=1, pull=1), K=wider)
    plain = [plain_qkv(domain, S, kind)] if kind != "dense" and not several else []
    qkvs = [*plain, *([seeded] if several or kind == "dense" else [])]
    qkvs += [replace(qkv, regime=regime) for regime in domain.scaling.regimes[1:] for qkv in qkvs]
    return [qkv for qkv in qkvs if is_qkv(qkv, gates, domain)]


# Gates and a QKV recipe


def _kind(kind: str, *, zero: bool = False) -> Cases:
    """Make a kind of case: gates of any regime, and a QKV recipe of this kind."""

    def draw(draw: Draw, domain: FusedDomain) -> Case:
        gates = draw_gates(draw, domain, zero=zero)
        return {"gates": gates, "qkv": draw_qkv(draw, domain, gates, kind)}

    def ladder(domain: FusedDomain) -> Iterator[Case]:
        for gates in gate_ladder(domain):
            for qkv in recipes_for(domain, gates, kind):
                yield {"gates": gates, "qkv": qkv}

    return cases_of(draw, ladder, inside_of(kind))


# Gates that are fully open or fully closed (exp is 1 or 0), and a QKV recipe of integers


def _exact_values(domain: FusedDomain) -> tuple[float, ...]:
    """Return a fully open gate and, if the contract allows it, a fully closed one."""
    contract = domain.contract
    opened = -CLOSED_FOR_GOOD if contract.from_preact else 0.0
    never = contract.gate in ("fixed", "bounded")
    never |= contract.gate == "decay" and "-inf" not in contract.special_values
    return (opened,) if never or domain.least > CLOSED_FOR_GOOD else (opened, CLOSED_FOR_GOOD)


def _draw_exact(draw: Draw, domain: FusedDomain) -> Case:
    """Draw until sums of closed gates do not overflow and q does not underflow, at most TRIES times.

    Else return the first case of the ladder.
    """
    case: Case = {}
    for _ in range(TRIES):
        shape = domain.draw_shape(draw, zero=False)
        fgate = draw_background(draw, _exact_values(domain))
        gates = Gates(domain.dtype, shape, Constant(0.0), fgate)
        qkv = draw_qkv(draw, domain, gates, "integers")
        case = {"gates": gates, "qkv": _in_small(qkv, gates, domain)}
        if _exact_inside(case, domain):
            return case
    return next(_exact_ladder(domain), case)


def _in_small(qkv: QKV, gates: Gates, domain: FusedDomain) -> QKV:
    """Return the recipe in the regime whose results are integers: a normaliser is 1 there."""
    return replace(qkv, regime=domain.scaling.integers, level=0)


def _exact_ladder(domain: FusedDomain) -> Iterator[Case]:
    for S in dict.fromkeys((*domain.shortest(3), *domain.past_chunks())):
        for heads in ((1, 1), (1, 2)) if domain.slow and S in domain.past_chunks() else ((1, 1), (2, 3)):
            values = _exact_values(domain)
            closed = [Edited(Constant(values[0]), (((0, 0, S // 2), values[1]),))] if len(values) > 1 else []
            for fgate in (Constant(values[0]), *closed):
                gates = Gates(domain.dtype, (*heads, S), Constant(0.0), fgate)
                several = int(heads != (1, 1))
                if domain.scaling.erases:
                    qkvs = delta_ladder(domain, S, "integers", several=several > 0)
                else:
                    plain = plain_qkv(domain, S, "integers", seed=several, pull=several)
                    qkvs = [_in_small(plain, gates, domain)]
                for qkv in qkvs:
                    if _exact_inside({"gates": gates, "qkv": qkv}, domain):
                        yield {"gates": gates, "qkv": qkv}
    edges = closing_ladder(domain, _exact_values(domain))
    yield from (case for case in edges if _exact_inside(case, domain))


def _exact_inside(case: Case, domain: FusedDomain) -> bool:
    if not inside_of("integers")(case, domain):
        return False
    igate, fgate = case["gates"].values()
    known = all(x in _exact_values(domain) for x in fgate.ravel())
    as_integers = case["qkv"].regime == domain.scaling.integers and case["qkv"].level == 0
    return known and not igate.any() and as_integers


# Gates, a QKV recipe, a head and a time t: a law changes everything else, or makes the gate at t special


def _position(draw: Draw, gates: Gates) -> Case:
    B, NH, S = gates.shape
    return {"head": (between(draw, 0, B - 1), between(draw, 0, NH - 1)), "t": between(draw, 0, S - 1)}


def _draw_position(draw: Draw, domain: FusedDomain) -> Case:
    gates = draw_gates(draw, domain)
    qkv = draw_qkv(draw, domain, gates, "one-hot")
    return {"gates": gates, "qkv": qkv, **_position(draw, gates)}


def _position_ladder(domain: FusedDomain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        B, NH, S = gates.shape
        for qkv in recipes_for(domain, gates, "one-hot")[:1]:
            for t in sorted({S // 2, S - 1}):
                yield {"gates": gates, "qkv": qkv, "head": (B // 2, NH // 2), "t": t}


def _within(case: Case) -> bool:
    """Whether head and t are valid indices. A case may lack either, for a law may take only some of them."""
    B, NH, S = case["gates"].shape
    b, h = case.get("head", (0, 0))
    return bool(0 <= b < B and 0 <= h < NH and 0 <= case.get("t", 0) < S)


def _position_inside(case: Case, domain: FusedDomain) -> bool:
    return inside_of("one-hot")(case, domain) and _within(case)


def _draw_rival(draw: Draw, domain: FusedDomain) -> Case:
    case = _draw_position(draw, domain)
    return {
        "gates": case["gates"],
        "qkv": case["qkv"],
        "rival": _rival(draw, domain, case["gates"]),
        "noise": 1 + seed(draw),
        "head": case["head"],
        "t": case["t"],
    }


def _rival(draw: Draw, domain: FusedDomain, gates: Gates) -> Gates:
    """Draw replacement gates of the same shape, contiguous."""
    for _ in range(TRIES):
        rival = domain.draw_gates_of(draw, gates.shape)
        if domain.has_gates(rival):
            return replace(rival, igate_layout="contiguous", fgate_layout="contiguous")
    return Gates(domain.dtype, gates.shape)


def _rival_ladder(domain: FusedDomain) -> Iterator[Case]:
    """Yield (gates, replacement gates, head, t). Skip cases with nothing outside the read window.

    A stray read depends on the indices and on the replacement values, hardly on the values of the kept gates:
    of a single head only cases with an input gate of 0 are kept.
    """
    rivals = [
        Gates(domain.dtype, (1, 1, 1), igate, fgate)
        for fgate in forget_ladder(domain)[-2:]
        for igate in inputs_ladder(domain)[-1:]
    ]
    for gates in gate_ladder(domain):
        B, NH, S = gates.shape
        several = (B, NH) != (1, 1)
        if not several and (S == 1 or gates.igate != Constant(0.0)):
            continue
        for qkv in recipes_for(domain, gates, "one-hot")[:1]:
            for t in sorted({0, S - 1 if several else S // 2}):
                for rival in rivals:
                    other = replace(rival, shape=gates.shape)
                    if domain.has_gates(other):
                        position = {"head": (B // 2, NH // 2), "t": t}
                        yield {"gates": gates, "qkv": qkv, "rival": other, "noise": 1, **position}


def _rival_inside(case: Case, domain: FusedDomain) -> bool:
    rival, gates = case["rival"], case["gates"]
    alike = rival.shape == gates.shape and domain.has_gates(rival)
    return alike and _position_inside(case, domain) and case.get("noise", 1) > 0


# Gates, a QKV recipe, and two cuts between packed sequences


def two_calls(cut: int, S: int, domain: FusedDomain) -> bool:
    """Whether the contract allows the lengths of both parts."""
    return 0 < cut < S and domain.has_length(cut) and domain.has_length(S - cut)


def _draw_packed(draw: Draw, domain: FusedDomain) -> Case:
    gates = draw_gates(draw, domain, one_batch=True)
    gates = replace(gates, igate_layout="contiguous", fgate_layout="contiguous")
    S = gates.shape[-1]
    qkv = replace(draw_qkv(draw, domain, gates, "one-hot"), layout="contiguous")
    places = [n for n in range(S + 1) if n in (0, S) or two_calls(n, S, domain)]
    cut, t = choose(draw, places), choose(draw, places)
    for way in ((cut, t), (t, cut), (cut, cut)):
        if _has_sequences(S, *way, domain):
            cut, t = way
            break
    return {"gates": gates, "qkv": qkv, "cut": cut, "t": t}


def sequence_ends(S: int, cut: int, t: int) -> list[int]:
    """Return the ends of packed sequences, beginning with 0.

    They are 0, cut, t and S; if cut > t, also every time from t to cut, so that sequences of length 1 occur.
    """
    return sorted({0, min(cut, S), min(t, S), S, *range(min(t, S), min(cut, S))})


def _has_sequences(S: int, cut: int, t: int, domain: FusedDomain) -> bool:
    """Whether the contract allows the length of each packed sequence."""
    ends = sequence_ends(S, cut, t)
    return all(domain.has_length(end - start) for start, end in pairwise(ends))


def _packed_ladder(domain: FusedDomain) -> Iterator[Case]:
    for S in dict.fromkeys((*domain.shortest(4), *domain.past_chunks())):
        for cut, t in dict.fromkeys(((S // 2, S), (1, S), (S // 3, 2 * S // 3), (0, S), (S, 0))):
            for heads in (1, 2):
                for fgate in forget_ladder(domain)[:2]:
                    gates = Gates(domain.dtype, (1, heads, S), Constant(0.0), fgate)
                    fits = domain.has_gates(gates) and _has_sequences(S, min(cut, S), t, domain)
                    for qkv in recipes_for(domain, gates, "one-hot")[:1] if fits else ():
                        yield {"gates": gates, "qkv": qkv, "cut": min(cut, S), "t": t}


def _packed_inside(case: Case, domain: FusedDomain) -> bool:
    S = case["gates"].shape[-1]
    contiguous = case["qkv"].layout == case["gates"].fgate_layout == "contiguous"
    return (
        inside_of("one-hot")(case, domain)
        and case["gates"].shape[0] == 1
        and contiguous
        and 0 <= case["cut"] <= S
        and 0 <= case["t"] <= S
        and _has_sequences(S, case["cut"], case["t"], domain)
    )


PROBED = _kind("one-hot", zero=True)
DENSE = _kind("dense")
EXACT = cases_of(_draw_exact, _exact_ladder, _exact_inside)
PLACES = cases_of(_draw_position, _position_ladder, _position_inside)
RIVALS = cases_of(_draw_rival, _rival_ladder, _rival_inside)
PACKED = cases_of(_draw_packed, _packed_ladder, _packed_inside)

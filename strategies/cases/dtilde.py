"""The kinds of case of D~ laws. Each has a ladder of canonical cases and a random search.

A case is a dictionary of named recipes and numbers: the arguments of a law. The domain (domain.py), made
from the contract, says which values are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from math import isqrt
from random import Random

import torch
from hypothesis import strategies as st

from dmat.strategies.cases import contains
from dmat.strategies.cases.canonical import (
    cotangent_ladder,
    exact_cotangent_ladder,
    exact_ladder,
    gate_ladder,
    just_past_blocks,
    ragged,
    shortest,
)
from dmat.strategies.cases.contains import Inside
from dmat.strategies.choose import Draw, between, choose
from dmat.strategies.domain import Domain
from dmat.strategies.drawing import draw_background, draw_gates
from dmat.strategies.recipes.backgrounds import Constant, Cycle, Ramp
from dmat.strategies.recipes.cotangents import (
    Cotangent,
    draw_cotangent,
    draw_exact_cotangent,
    draw_moderate_cotangent,
)
from dmat.strategies.recipes.gates import Gates, exact_units, special
from dmat.strategies.recipes.layouts import SAME_VALUES
from dmat.strategies.recipes.recipe import Case as Case


@dataclass(frozen=True)
class Cases:
    """One kind of case: how to draw one, its ladder, and its domain test.

    inside: whether a case lies in a domain; it also takes a case that has only the arguments of one law.
    None: failing cases are not shrunk, because the case is its shape, or because every example is expensive.
    """

    draw: Callable[[Draw, Domain], Case]
    ladder: Callable[[Domain], Iterator[Case]]
    inside: Inside | None = None

    def search(self, domain: Domain) -> st.SearchStrategy[Case]:
        """Return the random search over this domain."""

        @st.composite
        def case(draw: st.DrawFn) -> Case:
            return self.draw(draw, domain)

        return case()

    def of_block(self, block: bytes, number: int, domain: Domain) -> Case:
        """Return case `number` of a block of random cases. block: the seed of the block.

        The case depends on the three arguments alone, so that another process can draw it again.
        """
        return self.draw(Random(block + number.to_bytes(4, "little")), domain)


# Gates alone


def _draw_gates(draw: Draw, domain: Domain) -> Case:
    return {"gates": domain.draw_gates(draw)}


def _gates_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        yield {"gates": gates}


def _draw_exact(draw: Draw, domain: Domain) -> Case:
    return {"gates": domain.draw_exact_gates(draw)}


def _exact_ladder(domain: Domain) -> Iterator[Case]:
    for gates in exact_ladder(domain):
        yield {"gates": gates}


# Gates and a cut between two of their times


def _draw_cut(draw: Draw, domain: Domain) -> Case:
    gates = domain.draw_gates(draw, zero=False)
    blocks = gates.shape[-1] // domain.seq_multiple_of
    return {"gates": gates, "cut": domain.seq_multiple_of * between(draw, 0, blocks)}


def _cut_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        S = gates.shape[-1]
        if 0 not in gates.shape:
            middle = S // domain.seq_multiple_of // 2 * domain.seq_multiple_of
            yield {"gates": gates, "cut": middle}


# Gates, and rival gates that replace all that one entry of D~ must not read


def _draw_window(draw: Draw, domain: Domain) -> Case:
    gates = domain.draw_gates(draw, zero=False, expanded=False)
    B, NH, S = gates.shape
    rival = draw_gates(draw, domain.dtype, domain.special_values, gates.shape, expanded=False)
    t = between(draw, 0, S - 1)
    return {
        "gates": gates,
        "rival": replace(rival, igate_layout="contiguous", fgate_layout="contiguous"),
        "head": (between(draw, 0, B - 1), between(draw, 0, NH - 1)),
        "t": t,
        "s": between(draw, 0, t),
    }


def _window_ladder(domain: Domain) -> Iterator[Case]:
    dtype = domain.dtype
    rivals = [Ramp(7.0, 1.0, 1.0), *(Constant(x) for x in special(domain.special_values))]
    for n in (1, 2, 3):
        S = n * domain.seq_multiple_of
        if domain.max_seq is not None and domain.max_seq < S:
            return
        edges = sorted({0, S // 2, S - 1})
        for rival in rivals:
            others = Gates(dtype, (1, 1, S), rival, rival)
            for s, t in combinations_with_replacement(edges, 2):
                gates = Gates(dtype, (1, 1, S), Constant(1.0), Constant(-1.0))
                yield {"gates": gates, "rival": others, "head": (0, 0), "t": t, "s": s}
    heads = Gates(dtype, (2, 3, S), Ramp(-1.5, 0.125, 0.75), Ramp(-1.5, 0.125, 0.75))
    for name, head in zip(SAME_VALUES, ((1, 1), (0, 0), (1, 2), (0, 2), (1, 0)), strict=True):
        laid = replace(heads, igate_layout=name, fgate_layout=name)
        others = Gates(dtype, (2, 3, S), Constant(3.0), Constant(3.0))
        yield {"gates": laid, "rival": others, "head": head, "t": S - 1, "s": 0}
    long = 38 if domain.seq_multiple_of == 1 else 4 * domain.seq_multiple_of
    if domain.max_seq is None or domain.max_seq >= long:
        for rival in rivals:
            gates = Gates(dtype, (1, 1, long), Constant(0.0), Constant(2.0))
            others = Gates(dtype, (1, 1, long), rival, rival)
            yield {"gates": gates, "rival": others, "head": (0, 0), "t": long // 2, "s": 1}


# Gates and a cotangent


def _draw_cotangent(draw: Draw, domain: Domain) -> Case:
    gates = domain.draw_gates(draw)
    return {"gates": gates, "cotangent": draw_cotangent(draw, gates)}


def _cotangent_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        for cotangent in cotangent_ladder(gates):
            yield {"gates": gates, "cotangent": cotangent}


def _draw_finite_cotangent(draw: Draw, domain: Domain) -> Case:
    return _draw_cotangent(draw, replace(domain, special_values=()))


def _finite_cotangent_ladder(domain: Domain) -> Iterator[Case]:
    return _cotangent_ladder(replace(domain, special_values=()))


def _draw_exact_cotangent(draw: Draw, domain: Domain) -> Case:
    gates = domain.draw_exact_gates(draw)
    return {"gates": gates, "cotangent": draw_exact_cotangent(draw, gates, domain.accumulator)}


def _exact_cotangent_ladder(domain: Domain) -> Iterator[Case]:
    for gates in exact_ladder(domain):
        for cotangent in exact_cotangent_ladder(gates, domain.accumulator):
            yield {"gates": gates, "cotangent": cotangent}


# Gates and a cotangent whose masked part, above the diagonal, is not zero


def _masked_values(domain: Domain) -> tuple[float, ...]:
    if domain.masked_cotangent == "summed":
        return (1.0, -3.0)
    return (float("nan"), 1.0, float("inf"), -float("inf"), 1e4)


def _draw_masked(draw: Draw, domain: Domain) -> Case:
    gates = domain.draw_gates(draw)
    masked = _masked_values(domain)
    return {"gates": gates, "cotangent": draw_cotangent(draw, gates, masked, expanded=False)}


def _masked_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        for masked in _masked_values(domain)[:2]:
            yield {"gates": gates, "cotangent": Cotangent(Cycle((1.0, -0.5)), masked)}


# Gates and a cotangent of 0 and signed powers of two between 2^-8 and 2^8


POWERS = (0.0, *(sign * 2.0**n for n in range(-8, 9) for sign in (1, -1)))


def _draw_powers_of_two(draw: Draw, domain: Domain) -> Case:
    values = draw_background(draw, POWERS)
    return {"gates": domain.draw_gates(draw), "cotangent": Cotangent(values)}


def _powers_of_two_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(domain):
        yield {"gates": gates, "cotangent": Cotangent(Cycle((1.0, -0.5, 4.0)))}


# Gates and a cotangent for laws with expensive examples: few cases, of different lengths

_MODERATE = (1.0, -1.0, 0.5, 2.0, 3.0, 1e-3, 0.0)


def _few_ladder(domain: Domain) -> Iterator[Case]:
    for S in dict.fromkeys([*shortest(domain), *just_past_blocks(domain), *ragged(domain)]):
        gates = Gates(domain.dtype, (2, 3, S), Ramp(-1.5, 0.125, 0.75), Cycle((2.0, -1.0, 0.5)))
        yield {"gates": gates, "cotangent": Cotangent(Cycle((1.0, -0.5, 3.0)))}


def _draw_few(draw: Draw, domain: Domain) -> Case:
    """Draw gates with B = 2, NH = 3 always: torch.compile compiles again when either becomes 1."""
    shape = (2, 3, domain.draw_shape(draw, zero=False)[-1])
    gates = draw_gates(draw, domain.dtype, domain.special_values, shape, expanded=False)
    gates = replace(gates, igate_layout="contiguous", fgate_layout="contiguous")
    return {"gates": gates, "cotangent": draw_moderate_cotangent(draw, gates, _MODERATE)}


# Shapes of more than 2^31 entries, by many heads or by a long sequence; and one large shape (LARGE)

ENTRIES = 2**31
PAST_16_BITS = 2**16


def _huge_shapes(domain: Domain) -> list[tuple[int, int, int]]:
    """Return the allowed shapes on which the sums of `spaced_gates` are exact, the cheaper one first."""
    step, most = domain.seq_multiple_of, domain.max_seq
    exact = 256 if exact_units(domain.dtype, domain.accumulator) > 512 else 192
    longest = exact if most is None else min(exact, most)
    S = max(1, longest // step) * step
    shapes = [(1, ENTRIES // S**2 + 3, S)]
    long = -(-(isqrt(ENTRIES) + 67) // step) * step
    if (most is None or most >= long) and (exact_units(domain.dtype, domain.accumulator) > 2 * long):
        shapes.append((1, 1, long))
    return shapes


def _huge_ladder(domain: Domain) -> Iterator[Case]:
    for shape in _huge_shapes(domain):
        yield {"shape": shape}


def _filling_shapes(domain: Domain) -> list[tuple[int, int, int]]:
    """Return shapes whose D~ fills domain.memory: with many heads, and with one sequence longer than 2^16."""
    entries = domain.memory // getattr(torch, domain.dtype).itemsize
    many = _huge_shapes(replace(domain, max_seq=min(domain.max_seq or PAST_16_BITS, 256)))[0][-1]
    shapes = [(1, entries // many**2, many)] if entries > many**2 else []
    step, most = domain.seq_multiple_of, isqrt(entries)
    long = (
        min(most, domain.max_seq or most, exact_units(domain.dtype, domain.accumulator) // 2) // step * step
    )
    return [*shapes, (1, 1, long)] if long > PAST_16_BITS else shapes


def _draw_huge(draw: Draw, domain: Domain) -> Case:
    shapes = _huge_shapes(domain)[:1] + (_filling_shapes(domain) if domain.memory else [])
    return {"shape": choose(draw, shapes)}


def _large_ladder(domain: Domain) -> Iterator[Case]:
    yield _draw_large(None, domain)


def _draw_large(draw: Draw | None, domain: Domain) -> Case:
    most = 2048 if domain.max_seq is None else min(2048, domain.max_seq)
    return {"shape": (1, 2, max(1, most // domain.seq_multiple_of) * domain.seq_multiple_of)}


# Finite gates, a direction v in which they move, and a cotangent. Direction and cotangent are moderate,
# because the intermediate results of second derivatives are squares.


def _draw_direction(draw: Draw, domain: Domain) -> Case:
    gates = replace(domain, special_values=()).draw_gates(draw, zero=False)
    v_igate, v_fgate = (draw_background(draw, _MODERATE) for _ in range(2))
    direction = Gates(domain.dtype, gates.shape, v_igate, v_fgate)
    cotangent = draw_moderate_cotangent(draw, gates, _MODERATE)
    return {"gates": gates, "direction": direction, "cotangent": cotangent}


def _direction_ladder(domain: Domain) -> Iterator[Case]:
    for gates in gate_ladder(replace(domain, special_values=(), zero_length=False)):
        shape = gates.shape
        for direction in (
            Gates(domain.dtype, shape, Constant(1.0), Constant(1.0)),
            Gates(domain.dtype, shape, Cycle((1.0, 0.0, -2.0)), Cycle((0.5, -1.0))),
        ):
            cotangent = cotangent_ladder(gates)[-1]
            yield {"gates": gates, "direction": direction, "cotangent": cotangent}


def _finite(case: Case, domain: Domain) -> bool:
    return contains.any_cotangent(case, replace(domain, special_values=()))


GATES = Cases(_draw_gates, _gates_ladder, contains.any_gates)
EXACT = Cases(_draw_exact, _exact_ladder, contains.exact_gates)
CUTS = Cases(_draw_cut, _cut_ladder, contains.cut)
WINDOWS = Cases(_draw_window, _window_ladder, contains.window)
COTANGENTS = Cases(_draw_cotangent, _cotangent_ladder, contains.any_cotangent)
FINITE_COTANGENTS = Cases(_draw_finite_cotangent, _finite_cotangent_ladder, _finite)
EXACT_COTANGENTS = Cases(_draw_exact_cotangent, _exact_cotangent_ladder, contains.exact_cotangent)
POWERS_OF_TWO = Cases(_draw_powers_of_two, _powers_of_two_ladder, contains.made_of(POWERS))
MASKED_COTANGENTS = Cases(_draw_masked, _masked_ladder, contains.masked_by(_masked_values))
DIRECTIONS = Cases(_draw_direction, _direction_ladder, contains.moderate)
FEW = Cases(_draw_few, _few_ladder)
HUGE = Cases(_draw_huge, _huge_ladder)
LARGE = Cases(_draw_large, _large_ladder)

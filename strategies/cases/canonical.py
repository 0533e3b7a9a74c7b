"""The ladder: the canonical cases that each law tries before it searches. They are the same in every run.

The shortest come first, so that a failing case is already minimal. Then come every special value and layout,
then lengths just past kernels' block sizes.
"""

from __future__ import annotations

from dataclasses import replace

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Diagonal,
    Heads,
    Ramp,
    Row,
    Sum,
    inf,
)
from dmat.strategies.recipes.cotangents import Cotangent, exact_budget
from dmat.strategies.recipes.gates import Gates, exact_units
from dmat.strategies.recipes.layouts import GATE_LAYOUTS
from dmat.strategies.regimes import constants, spikes

UNEVEN = Ramp(-1.5, 0.125, 0.75)  # the gates differ from head to head


def _fitting(domain: Domain, free: tuple[int, ...], blocks: tuple[int, ...]) -> list[int]:
    """Return the lengths that the contract allows.

    free: the lengths if S may be any number. blocks: else the multiples of seq_multiple_of.
    """
    step = domain.seq_multiple_of
    lengths = free if step == 1 else tuple(n * step for n in blocks)
    return [S for S in lengths if domain.max_seq is None or S <= domain.max_seq]


def shortest(domain: Domain) -> list[int]:
    """Return the shortest allowed lengths, except 0."""
    return _fitting(domain, (1, 2, 3), (1, 2, 3))


def just_past_blocks(domain: Domain) -> list[int]:
    """Return the smallest lengths that need a second block of 16, 32, 64 or 128."""
    return _fitting(domain, (17, 33, 65, 129), (2,))


def ragged(domain: Domain) -> list[int]:
    """Return lengths whose last block is partial and holds several times."""
    return _fitting(domain, (17, 38, 70, 129), (4,))


def stacked(cases: list[Gates], *, slow: bool = False) -> list[Gates]:
    """Put contiguous gates of one head and of one length into one call, where each is a head.

    The first of each length stays a call of its own, before the others, unless the domain is slow.
    """
    of_length: dict[int, list[Gates]] = {}
    for gates in cases:
        of_length.setdefault(gates.shape[-1], []).append(gates)
    calls = []
    for S, alike in of_length.items():
        alone = 0 if slow and len(alike) > 1 else 1
        calls += alike[:alone]
        if others := alike[alone:]:
            igate, fgate = (Heads(tuple(x)) for x in zip(*((g.igate, g.fgate) for g in others), strict=True))
            calls.append(Gates(others[0].dtype, (1, len(others), S), igate, fgate))
    return calls


def gate_ladder(domain: Domain) -> list[Gates]:
    """Return the canonical gates."""
    lengths = shortest(domain)
    if not lengths:
        return [Gates(domain.dtype, (1, 1, 0))] if domain.zero_length else []

    def gates(S: int, igate: Background, fgate: Background) -> Gates:
        return Gates(domain.dtype, (1, 1, S), igate, fgate)

    S, own = lengths[-1], domain.gate_format
    cases = [gates(n, Constant(0.0), Constant(f)) for n in lengths[:2] for f in constants(own)]
    cases += [gates(S, igate, fgate) for igate, fgate in spikes(own, S)]
    cases = stacked(cases, slow=domain.slow)
    heads = Gates(domain.dtype, (2, 3, S), UNEVEN, UNEVEN)
    cases += [replace(heads, igate_layout=name, fgate_layout=name) for name in GATE_LAYOUTS]
    if domain.zero_length:
        cases += [Gates(domain.dtype, shape) for shape in ((1, 1, 0), (0, 2, S), (2, 0, S))]
    cases += [Gates(domain.dtype, (1, 1, n)) for n in just_past_blocks(domain)]
    many = Sum(UNEVEN, Cycle((2.0, 0.0, -0.5)))
    cases += [Gates(domain.dtype, (1, 2, n), Cycle((1.0, -2.0, 0.5)), many) for n in ragged(domain)]
    return cases


def exact_ladder(domain: Domain) -> list[Gates]:
    """Return the canonical gates of the exact regime (docs/spec.md section 4)."""
    most = exact_units(domain.dtype, domain.accumulator) // 2  # the longest sequence of gates of one unit
    short, blocks, tails = (
        [S for S in lengths(domain) if S <= most] for lengths in (shortest, just_past_blocks, ragged)
    )
    plain = [(S, i) for S in short for i in (0.0, 128.0)] + [(S, 0.0) for S in blocks]
    cases = [Gates(domain.dtype, (1, 1, S), Constant(i), Constant(-64.0)) for S, i in plain]
    for S in [*short[-1:], *tails]:
        steps = Cycle((-64.0, -64.0 * min(3, most // S)))
        cases.append(Gates(domain.dtype, (2, 3, S), Ramp(64.0, 0.0, 64.0), steps))
        if "+inf" in domain.special_values:
            open_gates = Cycle((-64.0, inf, inf))
            cases.append(Gates(domain.dtype, (1, 2, S), Cycle((64.0, -128.0)), open_gates))
    return cases


def cotangent_ladder(gates: Gates) -> list[Cotangent]:
    """Return the canonical cotangents: ones, also expanded as D~.sum() gives them, and one uneven matrix."""
    expanded = Cotangent(Constant(1.0), layout="expanded over all")
    uneven = Cotangent(Cycle((1.0, -0.5, 3.0)), layout="matrix transposed")
    S = gates.shape[-1]
    return [Cotangent(), expanded] if S <= 2 else [expanded if S <= 4 else Cotangent(), uneven]


def exact_cotangent_ladder(gates: Gates, accumulator: str) -> list[Cotangent]:
    """Return the canonical integer cotangents: dense if their sum is exact, else a row and a diagonal."""
    S = gates.shape[-1]
    if S * (S + 1) // 2 <= exact_budget(gates.dtype, accumulator) // 3:
        return [Cotangent(), Cotangent(Cycle((1.0, -2.0, 3.0)))]
    return [Cotangent(Row(1.0)), Cotangent(Diagonal(1.0, 1))]

"""How mild a case is, and milder cases: ordinary gates before saturated, extreme, infinite, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from dmat.strategies import Cotangent, Gates
from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Edited,
    Heads,
    Normal,
    Palette,
    Within,
)
from dmat.strategies.recipes.gates import MinusWindow
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import LARGEST_ORDINARY, LARGEST_SATURATED
from dmat.strategies.shrinking.order import Size, size
from dmat.testing.causes.compare import GENERAL
from dmat.testing.contract.names import DTYPES, SPECIAL_VALUES
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import rank

ORDINARY, SATURATED, EXTREME, SUBNORMAL, INFINITE, NOT_A_NUMBER = range(6)
LOG_GATES = (-5.0, -(2.0**-10))  # ordinary log gates
PARTS = ("gates", "rival")  # the parts of a case that are gates; `direction` is a tangent
BLOCK = b"mildest "

Mildness = tuple[int, bool, int, int, bool, float, int, Size]  # smallest first


def mildness(law: Law, subject: Subject, case: Case) -> Mildness:
    """Return the sort key of a failing case: gates, cotangent, dtype, output, law, length, size."""
    measured = size(case)
    return (
        severity(law, subject, case),
        not _has_plain_cotangent(case),
        DTYPES.index(subject.dtype),
        int("cotangent" in case or "direction" in case),
        law.name not in GENERAL,  # a value against the exact one is told in fewer words than two calls
        measured[1],
        rank(law),
        measured,
    )


def severity(law: Law, subject: Subject, case: Case) -> int:
    """Return how extreme the gates of a case are, with those that the law itself sets."""
    of_law = [NOT_A_NUMBER if name == "nan" else INFINITE for name in special_values(law, subject, case)]
    return max([*of_law, *(_severity(case[part]) for part in PARTS if part in case)], default=ORDINARY)


def _severity(gates: Gates) -> int:
    values = np.concatenate([gate.ravel() for gate in gates.values()])
    if np.isnan(values).any():
        return NOT_A_NUMBER
    if np.isinf(values).any():
        return INFINITE
    least = torch.finfo(getattr(torch, gates.dtype)).smallest_normal
    if ((values != 0) & (np.abs(values) < least)).any():
        return SUBNORMAL
    largest = np.abs(values).max(initial=0.0)
    return EXTREME if largest > LARGEST_SATURATED else SATURATED if largest > LARGEST_ORDINARY else ORDINARY


def _has_plain_cotangent(case: Case) -> bool:
    cotangent = case.get("cotangent")
    return not isinstance(cotangent, Cotangent) or math.isfinite(cotangent.masked)


def special_values(law: Law, subject: Subject, case: Case) -> list[str]:
    """Return the infinities and NaN in the gates of a case, and those that the law itself sets."""
    values = [gate for part in PARTS if part in case for gate in case[part].values()]
    there = {
        "-inf": any(np.isneginf(x).any() for x in values),
        "+inf": any(np.isposinf(x).any() for x in values),
        "nan": any(np.isnan(x).any() for x in values),
    }
    return [name for name in SPECIAL_VALUES if there[name] or _sets(law, subject, name)]


def _sets(law: Law, subject: Subject, name: str) -> bool:
    """Whether the law sets this special value: then it does not apply to a contract without it."""
    contract = subject.contract
    if name not in contract.special_values or law.not_applicable(subject) is not None:
        return False
    without = replace(contract, special_values=tuple(x for x in contract.special_values if x != name))
    other = replace(subject, implementation=replace(subject.implementation, contract=without))
    return law.not_applicable(other) is not None


# Milder cases


def milder(law: Law, subject: Subject, case: Case, limit: int, most: int) -> Iterator[Case]:
    """Yield cases that the law may be tried on, whose gates are no more extreme than `limit`.

    First the case itself with its gates made milder, then `most` random cases, made milder too.
    limit: ORDINARY, SATURATED or EXTREME.
    """
    inside, domain = law.cases.inside, subject.domain
    if inside is None or "gates" not in case or any(_sets(law, subject, name) for name in SPECIAL_VALUES):
        return
    ranges = _ranges(limit, subject)
    for candidate in _variants(case, ranges):
        if inside(candidate, domain):
            yield candidate
    for number in range(most):
        candidate = _within_ranges(law.arguments(law.cases.of_block(BLOCK, number, domain)), ranges)
        if inside(candidate, domain):
            yield candidate


Range = tuple[float, float]
Ranges = tuple[Range, Range]  # of the input gate, and of the forget gate


def _ranges(limit: int, subject: Subject) -> Ranges:
    largest = float(torch.finfo(getattr(torch, subject.domain.dtype)).max)
    size = {ORDINARY: LARGEST_ORDINARY, SATURATED: LARGEST_SATURATED, EXTREME: largest}[limit]
    if not subject.domain.gate_format.log:
        return (-size, size), (-size, size)
    low, high = LOG_GATES
    least = getattr(subject.domain, "least", -size)  # a contract may bound log gates
    return (-LARGEST_ORDINARY, LARGEST_ORDINARY), (max(low if limit == ORDINARY else -size, least), high)


def _variants(case: Case, ranges: Ranges) -> Iterator[Case]:
    """Yield the case with clipped gates, with plain gates, and with the gates of a model."""
    clipped_case = _within_ranges(case, ranges)
    yield clipped_case
    mean = -1.0 if ranges[1][1] < 0 else 3.0
    fgates: tuple[Background, ...] = (
        within(Constant(-1.0), *ranges[1]),
        within(Cycle((-1.0, -0.5, -2.0)), *ranges[1]),
        Within(Normal(1, 1.0, mean), *ranges[1]),
    )
    for fgate in fgates:
        for igate in (Constant(0.0), Cycle((1.0, -0.5, 0.25))):
            yield {**clipped_case, "gates": replace(case["gates"], igate=igate, fgate=fgate)}


def plain_variants(subject: Subject, case: Case) -> Iterator[Case]:
    """Yield the case with ordinary gates, without NaN in its cotangent."""
    yield from _variants(case, _ranges(ORDINARY, subject))


def generic_variants(subject: Subject, case: Case) -> Iterator[Case]:
    """Yield the case with ordinary gates of which no two are alike, so that no wrong index goes unseen."""
    low, high = _ranges(ORDINARY, subject)[1]
    for seed in range(1, 8, 2):
        fgate = Within(Normal(seed, 1.0, -1.0), low, high)
        gates = replace(case["gates"], igate=Within(Normal(seed + 1), -4.0, 4.0), fgate=fgate)
        yield {**_within_ranges(case, _ranges(ORDINARY, subject)), "gates": gates}


def _within_ranges(case: Case, ranges: Ranges) -> Case:
    return {name: _milder(part, ranges) for name, part in case.items()}


def _milder(part: object, ranges: Ranges) -> object:
    """Return gates clipped to these ranges, a cotangent without NaN; else the part itself."""
    if isinstance(part, Cotangent) and not math.isfinite(part.masked):
        return replace(part, masked=0.0)
    if not isinstance(part, Gates):
        return part
    return replace(part, igate=_clipped(part, 0, ranges[0]), fgate=_clipped(part, 1, ranges[1]))


def _clipped(gates: Gates, number: int, limits: Range) -> Background:
    least = torch.finfo(getattr(torch, gates.dtype)).smallest_normal

    def plain(value: float) -> float:
        """Return 0 for NaN and for a subnormal value."""
        return 0.0 if math.isnan(value) or 0 < abs(value) < least else value

    background = _mapped((gates.igate, gates.fgate)[number], plain)
    flushed = replace(gates, igate=background) if number == 0 else replace(gates, fgate=background)
    values = flushed.values()[number]
    tiny = (values != 0) & (np.abs(values) < least)
    if isinstance(background, MinusWindow) or np.isnan(values).any() or tiny.any():
        return Constant(0.0 if number == 0 else -1.0)
    if ((limits[0] <= values) & (values <= limits[1])).all():
        return background
    return within(background, *limits)


def within(background: Background, low: float, high: float) -> Background:
    """Return a background with its values clipped to [low, high], as plain as the background."""
    return _mapped(background, lambda value: min(max(value, low), high), lambda one: Within(one, low, high))


def _mapped(
    background: Background,
    plain: Callable[[float], float],
    rest: Callable[[Background], Background] = lambda background: background,
) -> Background:
    """Return a background with each value that it names replaced. rest: applied where it names none."""
    match background:
        case Constant(value):
            return Constant(plain(value))
        case Cycle(values):
            return Cycle(tuple(map(plain, values)))
        case Palette(seed, values):
            return Palette(seed, tuple(map(plain, values)))
        case Edited(inner, edits):
            return Edited(_mapped(inner, plain, rest), tuple((index, plain(value)) for index, value in edits))
        case Heads(several):
            return Heads(tuple(_mapped(one, plain, rest) for one in several))
    return rest(background)


# From where on


def largest(case: Case) -> tuple[str, float]:
    """Return the gate with the largest finite magnitude, "f" or "i", and that magnitude."""
    igate, fgate = case["gates"].values()
    sizes = [float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for x in (igate, fgate)]
    return ("f", sizes[1]) if sizes[1] >= sizes[0] else ("i", sizes[0])


def clipped(case: Case, most: float) -> Case:
    """Return the case with its gates clipped to magnitudes of at most `most`."""
    gates: Gates = case["gates"]
    both = [x if isinstance(x, MinusWindow) else within(x, -most, most) for x in (gates.igate, gates.fgate)]
    return {**case, "gates": replace(gates, igate=both[0], fgate=both[1])}


def model_gates(dtype: str, S: int, log: bool) -> Gates:
    """Return the gates of a model: one head, normal forget gates around +3, normal input gates."""
    fgate: Background = Within(Normal(1, 0.3, -0.3), *LOG_GATES) if log else Normal(1, 1.0, 3.0)
    return Gates(dtype, (1, 1, S), Normal(0), fgate)

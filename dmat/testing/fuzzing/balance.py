"""Draw the next case of a turn: balanced over the gate regimes, with some cases of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import regimes_of
from dmat.testing.law.law import Law

MOST_DRAWS = 4  # draws until the best one so far is taken
PATIENT = 60  # the same for a law with expensive examples: its draws cost little in comparison
A_RUNG_IN = 8  # one case in 8 comes from the ladder, which contains the boundary cases


@lru_cache(maxsize=256)
def _rungs(entry: Law, domain: Domain) -> tuple[Case, ...]:
    return tuple(entry.cases.ladder(domain))


def balanced(entry: Law, domain: Domain, random: Random, tried: Mapping[str, int]) -> Case:
    """Return the next case: the first draw whose regime has at most the average number of examples.

    If no draw has, return the draw with the fewest examples of its regime. For a law with expensive examples,
    return the first draw of a regime without examples. tried: examples of this law so far, by regime.
    """
    rungs = _rungs(entry, domain)
    if rungs and random.randrange(A_RUNG_IN) == 0:
        return random.choice(rungs)
    average = sum(tried.values()) / max(1, len(tried))
    drawn: list[tuple[int, int, Case]] = []
    expensive = entry.cases.inside is None
    for _ in range(PATIENT if expensive else MOST_DRAWS):
        case = entry.cases.draw(random, domain)
        if "gates" not in case:
            return case
        count = min(tried.get(regime, 0) for regime in regimes_of(case["gates"]))
        if count <= (0 if expensive else average):
            return case
        drawn.append((count, len(drawn), case))
    return min(drawn)[-1]

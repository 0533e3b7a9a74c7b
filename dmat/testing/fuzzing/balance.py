"""Choice of the next case: gates of a regime that was tried little, and some cases of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import regime_of
from dmat.testing.law.law import Law

MOST_DRAWS = 4  # until one is taken as it is
PATIENT = 60  # draws for a law with expensive examples: beside those, a draw costs nothing
A_RUNG_IN = 8  # one case in so many is of the ladder, which knows the edges


@lru_cache(maxsize=256)
def _rungs(entry: Law, domain: Domain) -> tuple[Case, ...]:
    return tuple(entry.cases.ladder(domain))


def balanced(entry: Law, domain: Domain, random: Random, tried: Mapping[str, int]) -> Case:
    """Return the next case: of some draws, the first whose regime was tried no more than the average.

    tried: examples of this law so far, by regime.
    """
    rungs = _rungs(entry, domain)
    if rungs and random.randrange(A_RUNG_IN) == 0:
        return random.choice(rungs)
    average = sum(tried.values()) / max(1, len(tried))
    drawn: list[tuple[int, int, Case]] = []
    dear = entry.cases.inside is None
    for _ in range(PATIENT if dear else MOST_DRAWS):
        case = entry.cases.draw(random, domain)
        if "gates" not in case:
            return case
        count = tried.get(regime_of(case["gates"]), 0)
        if count <= (0 if dear else average):
            return case
        drawn.append((count, len(drawn), case))
    return min(drawn)[-1]

"""The smallest case that breaks a law, as far as some hundred tries find it.

Nothing is random and the clock only ends it, so that one failing case leads to one smallest. Every case
tried lies in the law's own domain (dmat.strategies.inside): what is shown was promised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dmat.strategies.recipes.recipe import Case
from dmat.strategies.shrinking import steps as smaller
from dmat.strategies.shrinking.order import Size, size
from dmat.strategies.shrinking.restarts import SHORT, leaps
from dmat.testing.verdict.finding import Failure, LawBroken

MOST_TRIES = 1200


MOST_SECONDS = 2.0  # of this process: beside other work it takes as many tries, and longer


MOST_WAITING = 5.0  # times that, by the clock: of a kernel that sleeps, or runs elsewhere


LONGEST = 24  # up to so many blocks every length is tried


Check = Callable[[Case], None]


Step = Callable[[Case], Iterator[Case]]


def attempted(check: Check, case: Case) -> LawBroken | None:
    """Try a case; return how it breaks the law, or None."""
    try:
        check(case)
    except LawBroken as broken:
        return broken
    except Exception:  # a refusal, or the law itself at a loss: no finding
        return None
    return None


@dataclass
class Descent:
    """The way down from a failing case, to ever smaller ones.

    inside: whether a case lies in the law's domain. block: lengths are multiples of it. seconds: it may take.
    """

    check: Check
    inside: Callable[[Case], bool]
    block: int
    found: list[Failure]
    seconds: float
    tries: int = 0
    seen: set[str] = field(default_factory=set)
    started: tuple[float, float] = field(default_factory=lambda: (time.process_time(), time.perf_counter()))
    size: Size = field(init=False)

    def __post_init__(self) -> None:
        """Measure the case that the way starts from."""
        self.size = size(self.case)

    @property
    def case(self) -> Case:
        """The smallest case so far."""
        return self.found[-1].case

    @property
    def spent(self) -> bool:
        """Return whether the time for shrinking is used up."""
        worked, waited = time.process_time() - self.started[0], time.perf_counter() - self.started[1]
        return self.tries >= MOST_TRIES or max(worked, waited / MOST_WAITING) > self.seconds

    def takes(self, case: Case) -> bool:
        """Return whether this case is smaller, inside the domain, new, and breaks the law. Keep it if so."""
        if (measured := size(case)) >= self.size or repr(case) in self.seen:
            return False
        self.seen.add(repr(case))
        if not self.inside(case):
            return False
        self.tries += 1
        broken = attempted(self.check, case)
        if broken is None:
            return False
        self.found.append(Failure(case, broken))
        self.size = measured
        return True

    def walk(self, step: Step) -> bool:
        """Take one kind of step as long as it leads down; tell if it did."""
        length, tried = len(self.found), 0
        while not self.spent:
            for number, case in enumerate(step(self.case)):
                if number >= tried and (self.takes(case) or self.spent):
                    tried = number
                    break
            else:
                break
        return len(self.found) > length

    def descend(self) -> None:
        """Take every kind of step until none leads down."""
        steps: tuple[Step, ...] = (
            lambda case: smaller.fewer_times(case, self.block),
            smaller.fewer_heads,
            smaller.plainer_layouts,
            smaller.plainer_backgrounds,
            smaller.fewer_edits,
            smaller.plainer_numbers,
        )
        moved = True
        while moved and not self.spent:
            moved = max(self.walk(step) for step in steps)

    def leap(self, longest: int, most: int) -> bool:
        """Try shorter cases that no step leads to (strategies.leaps); tell if one breaks the law."""
        for case in leaps(self.case, self.block, longest, most):
            if self.spent or self.takes(case):
                return not self.spent
        return False


def minimal(
    check: Check,
    inside: Callable[[Case], bool],
    block: int,
    failure: Failure,
    seconds: float | None = None,
) -> list[Failure]:
    """Return ever smaller failures, from this one on: a leap to a short one, then down, and on by leaps.

    seconds: of this process, that the way may take; default: MOST_SECONDS.
    """
    descent = Descent(check, inside, block, [failure], MOST_SECONDS if seconds is None else seconds)
    descent.leap(SHORT, most=1)
    descent.descend()
    while descent.leap(LONGEST, most=2):
        descent.descend()
    return descent.found

"""Shrink a failing case: search for the smallest case that breaks the law, in some hundred tries.

The search is deterministic; only its end depends on the clock. So one failing case leads to one smallest
case. Every case tried lies in the law's own domain (dmat.strategies.cases.contains): the kernel promises
every case that a report shows.
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


MOST_SECONDS = 2.0  # CPU seconds of this process: other load makes the search longer, not shallower


MOST_WAITING = 5.0  # factor to wall-clock seconds, for a kernel that sleeps or runs on a GPU


LONGEST = 24  # restarts try every length up to this many blocks


Check = Callable[[Case], None]


Step = Callable[[Case], Iterator[Case]]


def attempted(check: Check, case: Case) -> LawBroken | None:
    """Try a case. Return the broken law, or None."""
    try:
        check(case)
    except LawBroken as broken:
        return broken
    except Exception:  # a refusal, or an error in the law itself: no finding
        return None
    return None


@dataclass
class Descent:
    """A descent from a failing case to ever smaller failing cases.

    inside: tests whether a case lies in the law's domain. block: lengths are multiples of it. found: the
    failures so far, the smallest last. seconds: CPU seconds that the descent may take.
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
        """Measure the first case."""
        self.size = size(self.case)

    @property
    def case(self) -> Case:
        """The smallest case so far."""
        return self.found[-1].case

    @property
    def spent(self) -> bool:
        """Whether the tries or the seconds are used up."""
        worked, waited = time.process_time() - self.started[0], time.perf_counter() - self.started[1]
        return self.tries >= MOST_TRIES or max(worked, waited / MOST_WAITING) > self.seconds

    def takes(self, case: Case) -> bool:
        """Return whether a case is smaller, inside the domain, new, and breaks the law; if so, append it."""
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
        """Repeat one kind of step while it finds smaller failing cases. Return whether it found one."""
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
        """Repeat all kinds of steps until none finds a smaller failing case."""
        steps: tuple[Step, ...] = (
            lambda case: smaller.fewer_times(case, self.block),
            smaller.fewer_heads,
            lambda case: smaller.other_seeds(case, self.block),
            lambda case: smaller.smaller_sizes(case, self.block),
            smaller.plainer_layouts,
            smaller.plainer_backgrounds,
            smaller.fewer_edits,
            smaller.plainer_numbers,
        )
        moved = True
        while moved and not self.spent:
            moved = max(self.walk(step) for step in steps)

    def restart(self, longest: int, most: int) -> bool:
        """Restart from a shorter case (strategies.shrinking.restarts). Return whether one breaks the law."""
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
    """Return ever smaller failures, this one first: restart, descend, then restart and descend in turn.

    seconds: CPU seconds of this process for the search; default: MOST_SECONDS.
    """
    descent = Descent(check, inside, block, [failure], MOST_SECONDS if seconds is None else seconds)
    descent.restart(SHORT, most=1)
    descent.descend()
    while descent.restart(LONGEST, most=2):
        descent.descend()
    return descent.found

"""Try a broken law again on changed cases, other contracts and changed calls. Hints rest on such tries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from dmat.strategies.recipes.recipe import Case
from dmat.strategies.shrinking.steps import shaped
from dmat.testing.contract import AnyContract
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import Finding, LawBroken

MOST_SECONDS = 6.0  # CPU seconds of this process for all tries of one failure
MOST_WAITING = 5.0  # factor to wall-clock seconds, for a kernel that sleeps or runs on a GPU

Trying = Callable[[Case], AbstractContextManager[None]]


class NoAnswer(Exception):
    """A try has no answer: the kernel refused or did not end, the law itself raised, or the time is up."""


@dataclass
class Tries:
    """Tries of one law on one subject, within MOST_SECONDS. trying: the guard of every try."""

    law: Law
    subject: Subject
    trying: Trying
    started: tuple[float, float] = field(default_factory=lambda: (time.process_time(), time.perf_counter()))

    def require_time(self) -> None:
        """Raise NoAnswer if the time is up."""
        worked, waited = time.process_time() - self.started[0], time.perf_counter() - self.started[1]
        if max(worked, waited / MOST_WAITING) > MOST_SECONDS:
            raise NoAnswer("the time is up")

    def under(self, contract: AnyContract) -> Subject:
        """Return the subject under another contract."""
        promised = replace(self.subject.implementation, contract=contract)
        return replace(self.subject, implementation=promised, part="all")

    def finding(self, case: Case, law: Law | None = None, subject: Subject | None = None) -> Finding | None:
        """Return the finding if the law breaks on this case, or None if it holds. Raises NoAnswer.

        law, subject: None for those of the failure.
        """
        law, subject = law or self.law, subject or self.subject.in_dtype(self.subject.dtype)
        self.require_time()
        try:
            with self.trying(case):
                law.check(subject, **law.arguments(case))
        except LawBroken as broken:
            return broken.finding
        except Exception as error:
            raise NoAnswer(str(error)) from error
        return None

    def holds(self, case: Case) -> bool:
        """Return whether the law holds on this case. Raises NoAnswer."""
        return self.finding(case) is None

    def is_mended(self, case: Case, changed: Case) -> bool:
        """Return whether the law breaks on the case and holds on the changed case, twice in turn.

        Two turns, for a kernel that is wrong in every second call would look mended in one.
        """
        return all(not self.holds(case) and self.holds(changed) for _ in range(2))

    def with_length(self, case: Case, length: int, subject: Subject | None = None) -> Case | None:
        """Return the case with this length S; None if the contract of the subject does not allow it."""
        subject = subject or self.subject
        inside, gates = self.law.cases.inside, case.get("gates")
        if inside is None or gates is None or 0 in gates.shape:
            return None
        try:
            wider = shaped(case, (*gates.shape[:2], length))
            return wider if inside(wider, subject.domain) else None
        except Exception:  # a recipe that cannot have this length
            return None


def answered(make: Callable[[], Iterator[str]]) -> Iterator[str]:
    """Yield the sentences that were made until a try had no answer."""
    try:
        yield from make()
    except NoAnswer:
        return

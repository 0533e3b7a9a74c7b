"""A failure of a report, and the question whether a contract still finds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded, encoded
from dmat.testing.causes.compare import symptom
from dmat.testing.causes.known import Cause, Cell
from dmat.testing.causes.mildest import Mildness, mildness
from dmat.testing.causes.trial import broken, found_again
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import LawRecord
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding


class TimeIsUp(Exception):
    """The search for causes has used its time."""


WAITING = 8.0  # seconds of the wall clock for one of CPU time: a kernel may wait, and others may work


@dataclass(frozen=True)
class Clock:
    """When a search ends, and what hears that a failure is tried.

    worked: the CPU time of this process, which other load does not change. waited: the wall clock.
    """

    worked: float
    waited: float
    trying: Callable[[int], None] = lambda number: None

    @classmethod
    def of(cls, seconds: float, trying: Callable[[int], None] = lambda number: None) -> Clock:
        """Return a clock that ends in so many seconds of CPU time."""
        return cls(time.process_time() + seconds, time.monotonic() + WAITING * seconds, trying)

    def check(self) -> None:
        """Raise TimeIsUp if the time is used."""
        if time.process_time() > self.worked or time.monotonic() > self.waited:
            raise TimeIsUp

    def at_most(self, seconds: float) -> Clock:
        """Return a clock that ends in so many seconds, or earlier with this one."""
        part = Clock.of(seconds)
        return replace(self, worked=min(self.worked, part.worked), waited=min(self.waited, part.waited))


@dataclass(frozen=True, eq=False)
class Failure:
    """A broken law of a report, or a milder case of one.

    number: its place in the report. finding: of its case, tried again; None if it held or is not tried.
    """

    number: int
    record: LawRecord
    law: Law
    subject: Subject
    case: Case
    finding: Finding | None = None

    @classmethod
    def of(cls, number: int, record: LawRecord, own: Implementation) -> Failure:
        """Read the failure from its record, and try its case again."""
        law = law_named(record.law, own.kind)
        subject = subject_of(own, record.dtype, record.device)
        failure = cls(number, record, law, subject, decoded(record.recipe or "{}"))
        return failure if failure.deadly else failure.tried()

    @property
    def deadly(self) -> bool:
        """Whether the case ended its process, or has none: it is not tried again."""
        return self.record.ended != "broken" or not self.record.recipe

    def tried(self) -> Failure:
        """Return the failure with the finding of its case under the kernel's own contract."""
        found = found_again(self.law, self.subject, self.case)
        return replace(self, finding=None if found is None else found.finding)

    @cached_property
    def mildness(self) -> Mildness:
        """The sort key: the mildest failure first."""
        return mildness(self.law, self.subject, self.case)

    @property
    def symptom(self) -> str:
        """The symptom of its finding."""
        return "" if self.finding is None else symptom(self.finding)

    def under(self, implementation: Implementation) -> Subject:
        """Return the subject of the same dtype and device, with another contract."""
        return replace(self.subject.in_dtype(self.subject.dtype), implementation=implementation)

    def falls_under(self, implementation: Implementation) -> bool:
        """Whether its case breaks its law under this contract too."""
        return broken(self.law, self.under(implementation), self.case) is not None

    def as_cause(self, number: int, signs: tuple[str, ...] = ()) -> Cause:
        """Return the failure as a cause that others are compared with."""
        record = self.record
        cell = Cell(record.law, record.implementation, record.dtype, record.device)
        return Cause(number, cell, encoded(self.case), self.symptom, "broken", signs)

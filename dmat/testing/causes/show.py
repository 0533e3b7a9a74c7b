"""The mildest case of a cause: search for it, and say from where on the kernel falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import encoded
from dmat.testing.causes.failure import Clock, Failure, TimeIsUp
from dmat.testing.causes.group import Group
from dmat.testing.causes.mildest import (
    EXTREME,
    INFINITE,
    ORDINARY,
    SATURATED,
    SUBNORMAL,
    clipped,
    largest,
    milder,
    severity,
    special_values,
)
from dmat.testing.causes.relaxable import Names, Relaxable
from dmat.testing.causes.trial import broken
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import LawRecord
from dmat.testing.registry import rank
from dmat.testing.run.session import Session
from dmat.testing.run.shrink import minimal
from dmat.testing.verdict.finding import Failure as Found
from dmat.testing.verdict.finding import LawBroken

RANDOM_CASES = 300  # tried for each law and limit
MOST_LAWS = 4
BISECTIONS = 10
SECONDS_OF_WORDS = 0.8  # of CPU time of the search for the least magnitude
SHRINKING = 0.5  # CPU seconds
FIRST = 1.0  # CPU seconds of the search with --first, without shrinking
LIMITS = (ORDINARY, SATURATED, EXTREME)

Falls = Callable[[Law, Subject, Case], LawBroken | None]


def falls_of(group: Group, relaxable: Relaxable) -> Falls:
    """Return the question whether a case breaks a law for the cause of this group.

    By a bug a case falls under every contract. By promises it falls as soon as they alone are kept.
    """
    if group.is_bug:
        strict, wide = [relaxable.own, *map(relaxable.without, relaxable.widest)], []
    else:
        around: Names = relaxable.around(group.given_up)
        strict = [relaxable.own, relaxable.without(around - group.given_up)]
        wide = [relaxable.without(around)]

    def falls(law: Law, subject: Subject, case: Case) -> LawBroken | None:
        subjects = [replace(subject.in_dtype(subject.dtype), implementation=one) for one in strict]
        found = [broken(law, one, case) for one in subjects]
        if not all(found):
            return None
        others = [replace(subject.in_dtype(subject.dtype), implementation=one) for one in wide]
        return None if any(broken(law, one, case) for one in others) else found[0]

    return falls


def mildest(failures: list[Failure], falls: Falls, clock: Clock) -> Failure:
    """Return the mildest failure that was found: one of these, or a case with more ordinary gates."""
    order = sorted(failures, key=lambda failure: failure.mildness)
    best = order[0]
    if best.deadly:
        return best
    within = None  # the limit within which a milder case was found
    try:
        shows = (one for one in order if _shows(one, falls, clock))  # others are of the cause by inference
        best = next(shows, best)
        # The known cases first, step by step; then random ones.
        for most, limits in ((0, LIMITS[::-1]), (RANDOM_CASES, LIMITS)):
            for limit in limits:
                if best.mildness[0] > limit:
                    found = next(_milder(failures, limit, most, falls, clock), None)
                    best, within = (best, within) if found is None else (found, limit)
    except TimeIsUp:
        pass
    return best if within is None else _shrunk(best, within, falls)


def _shows(failure: Failure, falls: Falls, clock: Clock) -> bool:
    """Whether the case of a failure falls by its cause."""
    clock.check()
    return falls(failure.law, failure.subject, failure.case) is not None


def _milder(failures: list[Failure], limit: int, most: int, falls: Falls, clock: Clock) -> Iterator[Failure]:
    """Yield failures whose gates are no more extreme than the limit: the plainest laws first.

    most: the number of random cases that are tried, too.
    """
    order = sorted(failures, key=lambda f: (f.law.cost, f.mildness[2:4], rank(f.law)))
    for failure in order[:MOST_LAWS]:
        for case in milder(failure.law, failure.subject, failure.case, limit, most):
            clock.check()
            error = falls(failure.law, failure.subject, case)
            if error is not None:
                yield replace(failure, case=case, finding=error.finding)


def _shrunk(failure: Failure, limit: int, falls: Falls) -> Failure:
    """Return the failure with a smaller case whose gates are no more extreme than the limit."""
    law, subject = failure.law, failure.subject
    inside = law.cases.inside
    assert inside is not None
    assert failure.finding is not None

    def check(case: Case) -> None:
        error = falls(law, subject, case)
        if error is not None:
            raise error

    def allowed(case: Case) -> bool:
        return inside(case, subject.domain) and severity(law, subject, case) <= limit

    first = Found(failure.case, LawBroken(failure.finding))
    found = minimal(check, allowed, subject.domain.seq_multiple_of, first, SHRINKING)[-1]
    return replace(failure, case=found.case, finding=found.broken.finding)


def with_words(failure: Failure, falls: Falls, clock: Clock) -> tuple[Failure, str]:
    """Say with which gates the failure was seen: ordinary ones, or from which magnitude on.

    Return the failure, with the least magnitude for which it falls, and the words.
    """
    how, case = failure.mildness[0], failure.case
    if failure.deadly or "gates" not in case or how == ORDINARY:
        return failure, "at ordinary gates"
    if how == SUBNORMAL:
        return failure, "only with subnormal gates"
    if how >= INFINITE:
        names = special_values(failure.law, failure.subject, case)
        said = ", ".join("NaN" if name == "nan" else name for name in names)
        return failure, f"only with {said} gates"
    name, size = largest(case)
    least = _least(failure, size, falls, clock)
    if least < size:
        failure = replace(failure, case=clipped(case, least)).tried()
    if failure.mildness[0] == ORDINARY:
        return failure, "at ordinary gates"
    return failure, f"only from |{name}| = {least:g} on"


def _least(failure: Failure, size: float, falls: Falls, clock: Clock) -> float:
    """Return the least magnitude, of few digits, to which the gates can be clipped so that the case falls."""

    def fallen(most: float) -> bool:
        clock.check()
        return falls(failure.law, failure.subject, clipped(failure.case, most)) is not None

    low, high = 0.0, size
    try:
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if fallen(middle) else (middle, high)
        rounded = (float(f"{high * (1 + 0.5 * 10.0**-digits):.{digits}g}") for digits in (2, 3, 4))
        return next((most for most in rounded if high <= most < size and fallen(most)), high)
    except TimeIsUp:
        return high


# With --first


def milder_failure(law: Law, subject: Subject, failure: Found, session: Session) -> tuple[Found, str]:
    """Return the failure with the mildest case found in FIRST CPU seconds, and with which gates it falls."""
    record = LawRecord(law.name, subject.implementation.name, subject.dtype, subject.device, "failed")
    record.ended, record.recipe = failure.ended, encoded(failure.case)
    quiet = subject.in_dtype(subject.dtype)
    one = Failure(0, record, law, quiet, failure.case, failure.broken.finding)

    def falls(law: Law, subject: Subject, case: Case) -> LawBroken | None:
        return broken(law, subject, case, session.trying)

    clock = Clock.of(FIRST + SECONDS_OF_WORDS)
    found = mildest([one], falls, clock.at_most(FIRST))
    found, words = with_words(found, falls, clock.at_most(SECONDS_OF_WORDS))
    if found is one or found.finding is None:
        return failure, words
    return Found(found.case, LawBroken(found.finding)), words

"""Which sizes a kernel refuses: it raises for a K or V that nobody stated, and not for smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from dmat.strategies.cases.sizes import with_smallest_sizes
from dmat.strategies.recipes.recipe import Case
from dmat.testing.errors import DidNotEnd, Refused, SizesRefused
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import Failure, LawBroken

Trying = Callable[[Case], AbstractContextManager[None]]


def unguarded(case: Case) -> AbstractContextManager[None]:
    """Guard no call: a process of its own tries the cases."""
    return nullcontext()


def refused_sizes(
    law: Law, subject: Subject, case: Case, broken: LawBroken, trying: Trying = unguarded
) -> Failure | SizesRefused | None:
    """Return which sizes a call that raised has refused: with smaller ones in their place it does not raise.

    If it is wrong with the smaller ones, return that failure. None if it raises whatever the sizes are.
    trying: the guard of a call.
    """
    if broken.finding.what != "raised":
        return None
    taken: list[tuple[tuple[int, int], Case]] = []
    for sizes, smaller in with_smallest_sizes(case, subject.domain):
        if all(sizes) and taken:
            break
        if law.why_not(subject, smaller) is not None:
            continue
        try:
            with trying(smaller):
                law.check(subject.in_dtype(subject.dtype), **smaller)
        except LawBroken as error:
            if error.finding.what != "raised":
                return Failure(smaller, error)
        except (Refused, DidNotEnd):
            continue
        else:
            taken.append((sizes, smaller))
    if not taken:
        return None
    K, V = (max(sizes[n] for sizes, _ in taken) for n in (0, 1))
    return SizesRefused((K, V), broken.finding.computed, [smaller for _, smaller in taken])

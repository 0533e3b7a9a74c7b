"""Try one case of a law, in the search for causes."""

from __future__ import annotations

from dmat.strategies.recipes.recipe import Case
from dmat.testing.errors import DidNotEnd, SizesRefused
from dmat.testing.law.law import Law
from dmat.testing.law.refusal import Trying, refused_sizes, unguarded
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import LawBroken

TRIES = 3  # of a case that broke the law: a kernel may be wrong by chance


def broken(law: Law, subject: Subject, case: Case, trying: Trying = unguarded) -> LawBroken | None:
    """Try a case. Return how it breaks the law, or None: it holds, is refused, or is not allowed.

    trying: the guard of the call. A call that does not end in time is no finding here.
    """
    if law.why_not(subject, case) is not None:
        return None
    try:
        with trying(case):
            law.check(subject.in_dtype(subject.dtype), **case)
    except LawBroken as error:
        refusal = refused_sizes(law, subject, case, error, trying)
        return None if isinstance(refusal, SizesRefused) else error
    except (Exception, DidNotEnd):  # a refusal, or an error of the law itself
        return None
    return None


def found_again(law: Law, subject: Subject, case: Case) -> LawBroken | None:
    """Try a case that broke the law up to TRIES times. Return how it breaks the law, or None."""
    return next(filter(None, (broken(law, subject, case) for _ in range(TRIES))), None)


def length(case: Case) -> int:
    """Return the length S of the gates of a case; 1 for an empty one, and without gates."""
    return max(1, case["gates"].shape[-1]) if "gates" in case else 1

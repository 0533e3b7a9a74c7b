"""Try one law on one case: the unit of every search, shrinking and fuzzing turn."""

from __future__ import annotations

from dmat.strategies.cases.sizes import with_smallest_sizes
from dmat.strategies.recipes.recipe import Case
from dmat.testing.errors import DidNotEnd, Refused, SizesRefused
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import Ended
from dmat.testing.run.journal import SLOW
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Failure, Finding, LawBroken


def attempt(
    law: Law, subject: Subject, case: Case, session: Session, number: int | None = None
) -> Failure | Refused | None:
    """Try a law on a case. Return the failure, or the refusal of the implementation, or None if the law held.

    The session's journal holds the case while it runs. An error of the law itself is raised. A kernel that
    raises for a size that its contract does not state refuses it: SizesRefused.
    number: the case's number in the block that the session has begun; None: the case is in no block.
    """
    outcome = _plain_attempt(law, subject, case, session, number)
    if isinstance(outcome, Failure) and outcome.ended == "broken":
        return refused_sizes(law, subject, case, session, outcome.broken) or outcome
    return outcome


def _plain_attempt(
    law: Law, subject: Subject, case: Case, session: Session, number: int | None = None
) -> Failure | Refused | None:
    try:
        with session.trying(case, number=number):
            law.check(subject, **case)
    except Refused as refusal:
        return refusal
    except LawBroken as broken:
        return Failure(case, broken)
    except DidNotEnd:
        return without_end(case, "did not end")
    return None


def refused_sizes(
    law: Law, subject: Subject, case: Case, session: Session, broken: LawBroken
) -> Failure | SizesRefused | None:
    """Return which sizes a call that raised has refused: with smaller ones in their place it does not raise.

    If it is wrong with the smaller ones, return that failure. None if it raises whatever the sizes are.
    """
    if broken.finding.what != "raised":
        return None
    taken: list[tuple[tuple[int, int], Case]] = []
    for sizes, smaller in with_smallest_sizes(case, subject.domain):
        if all(sizes) and taken:
            break
        if law.why_not(subject, smaller) is None:
            outcome = _plain_attempt(law, subject.in_dtype(subject.dtype), smaller, session)
            if isinstance(outcome, Failure) and outcome.broken.finding.what not in ("raised", "died"):
                return outcome
            taken += [(sizes, smaller)] if outcome is None else []
    if not taken:
        return None
    K, V = (max(sizes[n] for sizes, _ in taken) for n in (0, 1))
    return SizesRefused((K, V), broken.finding.computed, [smaller for _, smaller in taken])


def without_end(case: Case, outcome: Ended) -> Failure:
    """Return the failure of a case that killed its process ("died") or exceeded its limit ("did not end")."""
    what = "the process died" if outcome == "died" else "no result within the time limit"
    note = "" if outcome == "died" else SLOW
    finding = Finding("call", (), what, "a result", note=note, what="died")
    return Failure(case, LawBroken(finding), ended=outcome)

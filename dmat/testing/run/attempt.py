"""Try one law on one case: the unit of every search, shrinking and fuzzing turn."""

from __future__ import annotations

from dmat.strategies.recipes.recipe import Case
from dmat.testing.devices import is_broken
from dmat.testing.errors import DidNotEnd, Refused
from dmat.testing.kernel.call import raised
from dmat.testing.law.law import Law
from dmat.testing.law.refusal import refused_sizes
from dmat.testing.law.subject import Subject
from dmat.testing.record import Ended
from dmat.testing.run.journal import SLOW
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Failure, Finding, LawBroken


def attempt(
    law: Law, subject: Subject, case: Case, session: Session, number: int | None = None
) -> Failure | Refused | None:
    """Try a law on a case. Return the failure, or the refusal of the implementation, or None if the law held.

    The session's journal holds the case while it runs. An error of the law itself is raised; that of a broken
    device is a failure, wherever the device raised it, and ends a process that is replaceable. A kernel that
    raises for a size that its contract does not state refuses it: SizesRefused.
    number: the case's number in the block that the session has begun; None: the case is in no block.
    """
    try:
        with session.trying(case, number=number):
            law.check(subject, **case)
    except Refused as refusal:
        return refusal
    except LawBroken as broken:
        session.leave_a_broken_device(subject.device, broken.finding.computed)
        return refused_sizes(law, subject, case, broken, session.trying) or Failure(case, broken)
    except DidNotEnd:
        return without_end(case, "did not end")
    except RuntimeError as error:
        finding = raised("call", error)
        session.leave_a_broken_device(subject.device, finding.computed)
        if not is_broken(subject.device):
            raise
        return Failure(case, LawBroken(finding))
    return None


def without_end(case: Case, outcome: Ended) -> Failure:
    """Return the failure of a case that killed its process ("died") or exceeded its limit ("did not end")."""
    what = "the process died" if outcome == "died" else "no result within the time limit"
    note = "" if outcome == "died" else SLOW
    finding = Finding("call", (), what, "a result", note=note, what="died")
    return Failure(case, LawBroken(finding), ended=outcome)

"""A case that breaks a law: told to other processes, tried again, and held against other contracts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dmat.strategies import inside
from dmat.strategies.cases import Case
from dmat.testing.casefile import decoded
from dmat.testing.contract import DTILDE
from dmat.testing.law import Law
from dmat.testing.report import laws
from dmat.testing.subject import Implementation, Refused, Subject
from dmat.testing.subjects import subject_of
from dmat.testing.verdict import LawBroken


@cache
def law_named(name: str, of: str = DTILDE) -> Law:
    """Return the law of this name, of D~ or of "fused" kernels. KeyError where there is none."""
    return {law.name: law for law in laws(of)}[name]


@dataclass(frozen=True)
class Counterexample:
    """A law, where it was tried, and the case as a line of JSON (dmat.testing.casefile).

    deadly: the process died of it, so it is not tried again, and breaks its law wherever it is allowed.
    """

    law: str
    dtype: str
    device: str
    case: str
    deadly: bool = False

    def read(self) -> Case:
        """Return the case."""
        return decoded(self.case)

    def refutes(self, implementation: Implementation) -> bool:
        """Whether its contract allows the case and implies the law, and the law does not hold."""
        if self.dtype not in implementation.contract.dtypes:
            return False
        law, case = law_named(self.law, implementation.contract.of), self.read()
        subject = subject_of(implementation, self.dtype, self.device)
        if forbidden(law, subject, case):
            return False
        try:
            if not self.deadly:
                law.check(subject, **case)
        except LawBroken:
            return True
        except Refused:
            return False
        return self.deadly


def forbidden(law: Law, subject: Subject, case: Case) -> str | None:
    """Return why the subject's contract does not let this law be tried on this case, or None."""
    reason = law.not_applicable(subject)
    if reason is not None:
        return reason
    if set(case) != set(law.parameters):
        wanted = ", ".join(law.parameters)
        return f"the case has {', '.join(case) or 'nothing'}; the law {law.name} takes {wanted}"
    allowed = law.cases.inside or inside.any_shape
    fitting = allowed(case, subject.domain)
    return None if fitting else f"the contract of {subject.implementation.name} does not allow the case"

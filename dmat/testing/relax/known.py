"""A case that breaks a law, in a form that can be sent to other processes and tried under other contracts."""

from __future__ import annotations

from dataclasses import dataclass

from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded
from dmat.testing.errors import Refused, SizesRefused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.refusal import refused_sizes
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import LawBroken


@dataclass(frozen=True)
class Counterexample:
    """A law, its dtype and device, and the case as a line of JSON (dmat.testing.case_file).

    deadly: the case killed a process. It is not tried again, and it breaks its law under every contract that
    allows the case.
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
        """Whether the contract allows the case and implies the law, and the implementation breaks the law."""
        if self.dtype not in implementation.contract.dtypes:
            return False
        law, case = law_named(self.law, implementation.kind), self.read()
        subject = subject_of(implementation, self.dtype, self.device)
        if law.why_not(subject, case):
            return False
        try:
            if not self.deadly:
                law.check(subject, **case)
        except LawBroken as broken:
            return not isinstance(refused_sizes(law, subject, case, broken), SizesRefused)
        except Refused:
            return False
        return self.deadly

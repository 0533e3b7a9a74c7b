"""A law: one statement, the cases it is tried on, and what a contract must promise for it to apply.

`@law(cases, order=..., needs=...)` makes a Law of a function (subject, **case), and leaves the function as
it is. The pytest plugin makes the test of a Law; running.py says how that test tries it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dmat.strategies import inside
from dmat.strategies.cases import Case, Cases
from dmat.strategies.regime import length_class, regime
from dmat.testing.contract import DTILDE
from dmat.testing.subject import Subject

Need = Callable[[Any], str | None]


@dataclass(frozen=True)
class Law:
    """name: without "test_law_". statement: its docstring. order: --dmat-first runs low ones first.

    of: what it is a law of, "D~" or "fused" kernels; of each, a name is given once. most: of a law whose
    examples are dear (a compilation, a process), how many the search tries at most.
    """

    name: str
    statement: str
    check: Callable[..., None]
    cases: Cases
    order: int
    needs: tuple[Need, ...]
    most: int | None = None
    of: str = DTILDE

    @property
    def parameters(self) -> list[str]:
        """Return the names of the parts of a case that this law takes."""
        return list(inspect.signature(self.check).parameters)[1:]

    def arguments(self, case: Case) -> Case:
        """Return the parts of a case that this law takes, in its own order."""
        return {name: case[name] for name in self.parameters}

    def not_applicable(self, subject: Subject) -> str | None:
        """Return why the contract promises nothing here, or None."""
        return next((reason for need in self.needs if (reason := need(subject))), None)

    def why_not(self, subject: Subject, case: Case) -> str | None:
        """Return why the subject's contract does not let this law be tried on this case, or None."""
        reason = self.not_applicable(subject)
        if reason is not None:
            return reason
        if set(case) != set(self.parameters):
            wanted = ", ".join(self.parameters)
            return f"the case has {', '.join(case) or 'nothing'}; the law {self.name} takes {wanted}"
        allowed = self.cases.inside or inside.any_shape
        fitting = allowed(case, subject.domain)
        name = subject.implementation.name
        return None if fitting else f"the contract of {name} does not allow the case"


def kind_of(case: Case) -> str | None:
    """Return the regime and the class of lengths of a case's gates, "REGIME, LENGTHS"; None without gates."""
    if "gates" not in case:
        return None
    gates = case["gates"]
    return f"{regime(gates)}, {length_class(gates.shape[-1])}"


def law(
    cases: Cases,
    *,
    order: int,
    needs: tuple[Need, ...] = (),
    most: int | None = None,
    of: str = DTILDE,
) -> Callable[..., Any]:
    """Make a Law of a function (subject, **case) whose docstring's first line states it.

    The function stays as it is; the Law is its attribute `law`.
    """

    def make(check: Callable[..., None]) -> Callable[..., None]:
        statement = " ".join((check.__doc__ or "").split("\n\n")[0].split())
        name = check.__name__.removeprefix("test_law_")
        check.__dict__["law"] = Law(name, statement, check, cases, order, needs, most, of)
        return check

    return make

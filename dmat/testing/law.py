"""A law: one statement, the cases it is tried on, and what a contract must promise for it to apply.

`@law(cases, order=..., needs=...)` makes a Law of a function (subject, **case), and leaves the function as
it is. The pytest plugin makes the test of a Law; running.py says how that test tries it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dmat.strategies import inside
from dmat.strategies.cases import Case, Cases
from dmat.strategies.regimes import regime_of
from dmat.strategies.shapes import length_class
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


@dataclass
class Record:
    """What became of one law for one subject, as the report has it.

    promised: the contract implies that the law is run; one that is not is an error of the check.
    worst: the largest error over bound that was let pass. case: the smallest that broke the law, as Python;
        recipe: the same, as a line of JSON. folder: where it is kept, if it is.
    ended: of a law that failed: "broken", or "died" or "did not end" of the process.
    refused: of the examples, those that the implementation refused with an error, where it may.
    drawn: how many examples had gates of this regime, and of this class of lengths, by "REGIME, LENGTHS".
    """

    law: str
    implementation: str
    dtype: str
    device: str
    status: str = "not run"  # until it is known better
    reason: str = "interrupted"
    promised: bool = True
    examples: int = 0
    refused: int = 0
    drawn: dict[str, int] = field(default_factory=dict)
    worst: float | None = None
    case: str | None = None
    recipe: str | None = None
    folder: str | None = None
    ended: str | None = None
    part: str = "all"
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, case: Case) -> None:
        """Count an example."""
        self.examples += 1
        if "gates" in case:
            name = f"{regime_of(case['gates'])}, {length_class(case['gates'].shape[-1])}"
            self.drawn[name] = self.drawn.get(name, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of the report's schema."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}


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

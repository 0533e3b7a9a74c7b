"""A law: one statement, the cases it is tried on, and what a contract must promise for it to apply.

`@law(cases, order=..., needs=...)` turns a function (subject, **case) into a pytest test of one argument,
the subject. The test tries the ladder, then searches with Hypothesis under the profile in force.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Flaky, Unsatisfiable

from dmat.strategies.cases import Case, Cases
from dmat.strategies.regime import length_class, regime
from dmat.testing.minimal import Failure, attempted, minimal
from dmat.testing.subject import Refused, Subject
from dmat.testing.verdict import LawBroken

Need = Callable[[Subject], str | None]

INCONSTANT = "Tried again, this case held: the implementation does not answer the same call alike."


@dataclass(frozen=True)
class Law:
    """name: without "test_law_". statement: its docstring. order: --dmat-first runs low ones first.

    most: of a law whose examples are dear (a compilation, a process), how many the search tries at most.
    """

    name: str
    statement: str
    check: Callable[..., None]
    cases: Cases
    order: int
    needs: tuple[Need, ...]
    most: int | None = None

    def arguments(self, case: Case) -> Case:
        """Return the parts of a case that this law takes, in its own order."""
        names = list(inspect.signature(self.check).parameters)[1:]
        return {name: case[name] for name in names}

    def not_applicable(self, subject: Subject) -> str | None:
        """Return why the contract promises nothing here, or None."""
        return next((reason for need in self.needs if (reason := need(subject))), None)


@dataclass
class Record:
    """What became of one law for one subject, as the report has it.

    promised: the contract implies that the law is run; one that is not is an error of the check.
    worst: the largest error over bound that was let pass. case: the smallest that broke the law.
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
    part: str = "all"
    seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    def count(self, case: Case) -> None:
        """Count an example."""
        self.examples += 1
        if "gates" in case:
            name = f"{regime(case['gates'])}, {length_class(case['gates'].shape[-1])}"
            self.drawn[name] = self.drawn.get(name, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of the report's schema."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}


def law(
    cases: Cases, *, order: int, needs: tuple[Need, ...] = (), most: int | None = None
) -> Callable[..., Any]:
    """Make a law of a function (subject, **case) whose docstring's first line states it."""

    def make(check: Callable[..., None]) -> Callable[..., None]:
        statement = " ".join((check.__doc__ or "").split("\n\n")[0].split())
        name = check.__name__.removeprefix("test_law_")
        entry = Law(name, statement, check, cases, order, needs, most)

        def test(subject: Subject, request: pytest.FixtureRequest) -> None:
            record = Record(name, subject.implementation.name, subject.dtype, subject.device)
            record.part = subject.part
            try:
                examples = request.config.getoption("--dmat-examples")
                profile = settings() if examples is None else settings(max_examples=examples)
                run_law(entry, subject, record, request.node.nodeid, profile)
            finally:
                record.seconds = round(time.perf_counter() - record._started, 3)
                record.worst = subject.worst
                request.node.user_properties.append(("dmat", record.as_dict()))

        test.__name__, test.__doc__, test.__module__ = (
            check.__name__,
            check.__doc__,
            check.__module__,
        )
        test.__qualname__ = check.__qualname__
        test.__dict__["law"] = entry
        return pytest.mark.dmat_law(test)

    return make


def run_law(entry: Law, subject: Subject, record: Record, key: str, profile: settings) -> None:
    """Try the ladder, then search; raise LawBroken with the law and the smallest case in its message."""
    reason = entry.not_applicable(subject)
    if reason is not None:
        record.status, record.reason, record.promised = "not run", reason, False
        pytest.skip(reason)
    if subject.uncallable:
        record.status, record.reason = "not run", subject.uncallable
        pytest.fail(f"not run: {subject.uncallable}", pytrace=False)
    try:
        search(entry, subject, record, key, profile)
    except LawBroken as broken:
        record.status, record.reason = "failed", str(broken)
        raise
    except Refused as refusal:
        record.status, record.reason, record.promised = "not run", str(refusal), False
        pytest.skip(str(refusal))
    except Exception as error:
        record.reason = f"the law itself raised {type(error).__name__}: {error}"
        raise
    if record.examples == 0 and subject.part != "ladder":
        record.status, record.reason = "not run", "no case satisfies the contract"
        pytest.fail(f"not run: {record.reason}", pytrace=False)
    record.status, record.reason = "passed", ""


def search(entry: Law, subject: Subject, record: Record, key: str, profile: settings) -> None:
    """Run the law on the ladder's cases and on random ones, and count them.

    key: distinguishes what Hypothesis keeps of this search. Raises LawBroken, or Refused where the
    implementation refused every case of the ladder, or all of the search. LawBroken is of the smallest
    case found, where the profile has the phase that shrinks; tries on the way to it are not counted.
    """
    failures: list[Failure] = []
    try:
        try_all(entry, subject, record, key, profile, failures)
    except LawBroken:
        failure = failures[-1]
        if Phase.shrink in profile.phases:
            failure = smallest(failure, entry, subject)
    except (Flaky, BaseExceptionGroup):
        if not failures:
            raise
        failure = replace(failures[0], again=False)
    else:
        return
    record.case = shown(failure.case)
    raise explained(failure, entry, subject) from failure.broken.__cause__


def try_all(
    entry: Law, subject: Subject, record: Record, key: str, profile: settings, failures: list[Failure]
) -> None:
    """Run the law on the ladder's cases and on random ones until one breaks it; add that to `failures`."""
    refusals: list[Refused] = []

    def attempt(drawn: Case) -> None:
        case = entry.arguments(drawn)
        record.count(case)
        try:
            entry.check(subject, **case)
        except Refused as refusal:
            record.refused += 1
            refusals.append(refusal)
        except LawBroken as error:
            failures.append(Failure(case, error))
            raise

    if subject.part != "search":
        for case in entry.cases.ladder(subject.domain):
            attempt(case)
        if refusals and record.refused == record.examples:
            raise refusals[0]
    if subject.part == "ladder":
        return

    # Hypothesis' shrinking costs more than the way down from its first find, and ends higher.
    unused = {Phase.explain, *((Phase.shrink,) if entry.cases.inside else ())}
    most = profile.max_examples if entry.most is None else min(entry.most, profile.max_examples)

    @settings(
        profile,
        max_examples=most,
        deadline=None,  # the first call of a compiled or CUDA kernel takes seconds
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in profile.phases if phase not in unused],
    )
    @given(case=entry.cases.search(subject.domain))
    def random_cases(case: Case) -> None:
        attempt(case)

    digest = f"{entry.name} {key}".encode()
    random_cases.hypothesis.inner_test._hypothesis_internal_add_digest = digest  # type: ignore[attr-defined]
    with suppress(Unsatisfiable):  # an empty domain; the ladder may have had cases, and examples are counted
        random_cases()
    if refusals and record.refused == record.examples:
        raise refusals[0]


def shown(case: Case) -> str:
    """Return the case as Python to paste: one assignment a line."""
    return "\n".join(f"{name} = {value!r}" for name, value in case.items())


def smallest(failure: Failure, entry: Law, subject: Subject) -> Failure:
    """Return the smallest failure found on the way down from this one that happens again when tried again."""
    inside, domain = entry.cases.inside, subject.domain
    if inside is None or subject.in_dtype(subject.dtype).uncallable:
        return failure
    quiet = subject.in_dtype(subject.dtype)  # what passes on the way is no part of the record

    def check(case: Case) -> None:
        entry.check(quiet, **case)

    found = minimal(check, lambda case: inside(case, domain), domain.seq_multiple_of, failure)
    if subject.in_dtype(subject.dtype).uncallable:
        return failure  # the device has failed for good, and every case with it
    again = (one for one in reversed(found) if attempted(check, one.case))
    return next(again, replace(failure, again=False))


def explained(failure: Failure, entry: Law, subject: Subject) -> LawBroken:
    """Return the finding with its law, its subject and its case around it."""
    case, finding = failure.case, failure.broken.finding
    where = f"{subject.implementation.name}, {subject.dtype} on {subject.device}"
    lines = [
        f"{entry.name}: {entry.statement}",
        f"does not hold for {where}:",
        *(f"  {line}" for line in finding.lines()),
        "on the case",
        "  from dmat.strategies import *",
        *(f"  {line}" for line in shown(case).splitlines()),
    ]
    if "gates" in case:
        lines.append(f"  igate_preact, fgate_preact = gates.build({subject.device!r})")
    if "cotangent" in case:
        lines.append(f"  G = cotangent.build(gates, {subject.device!r})")
    if not failure.again:
        lines.append(INCONSTANT)
    told = LawBroken(finding)
    told.args = ("\n".join(lines),)
    return told

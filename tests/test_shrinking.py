"""Shrinking: all that does not matter is removed, for any law. test_mutants.py tests it on wrong kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from torch import Tensor

from dmat.strategies import Constant, Edited, Gates
from dmat.strategies.cases import dtilde
from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import Law
from dmat.testing.record import Record
from dmat.testing.registry import laws
from dmat.testing.run import shrink
from dmat.testing.run.search import search
from dmat.testing.verdict.finding import Failure, Finding, LawBroken

from .zoo.sound import masked_cumulative_sum

LAWS = {law.name: law for law in laws()}
PROFILE = settings(max_examples=50, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])


def way_down(kind: Cases, domain: Domain, breaks: Callable[[Case], bool], case: Case | None = None) -> str:
    """Return what becomes of a case, of the last of the ladder's if none, by a law that such cases break."""
    wrong = LawBroken(Finding("D~", (), "wrong", "right", what="shape"))

    def check(case: Case) -> None:
        if breaks(case):
            raise wrong

    inside, case = kind.inside, case or [case for case in kind.ladder(domain) if breaks(case)][-1]
    assert inside is not None
    found = shrink.minimal(
        check, lambda case: inside(case, domain), domain.seq_multiple_of, Failure(case, wrong)
    )
    return ", ".join(repr(part) for part in found[-1].case.values())


WIDE = Domain(special_values=(), zero_length=False, seq_multiple_of=16)
ZERO, CLOSED = "Gates('float32', (1, 1, 1))", "Gates('float32', (1, 1, 1), fgate=Constant(-64.0))"


@pytest.mark.parametrize(
    ("kind", "domain", "least"),
    [
        (dtilde.GATES, Domain(), ZERO),
        (dtilde.GATES, WIDE, "Gates('float32', (1, 1, 16))"),
        (dtilde.EXACT, Domain(), CLOSED),
        (dtilde.CUTS, WIDE, "Gates('float32', (1, 1, 16)), 0"),
        (dtilde.WINDOWS, Domain(), f"{ZERO}, {ZERO}, (0, 0), 0, 0"),
        (dtilde.COTANGENTS, Domain(), f"{ZERO}, Cotangent()"),
        (dtilde.EXACT_COTANGENTS, Domain(), f"{CLOSED}, Cotangent()"),
        (dtilde.POWERS_OF_TWO, Domain(), f"{ZERO}, Cotangent()"),
        (dtilde.MASKED_COTANGENTS, Domain(), f"{ZERO}, Cotangent(masked=1.0)"),
        (dtilde.DIRECTIONS, Domain(), f"{ZERO}, {ZERO}, Cotangent()"),
    ],
)
def test_where_any_case_will_do(kind: Cases, domain: Domain, least: str) -> None:
    """A law that nothing keeps ends at the smallest case of its domain."""
    assert way_down(kind, domain, lambda case: True) == least


def length(case: Case) -> int:
    return int(case["gates"].shape[-1])


def forget(case: Case) -> Any:
    return case["gates"].values()[1]


@pytest.mark.parametrize(
    ("breaks", "least"),
    [
        (lambda case: length(case) >= 23, "Gates('float32', (1, 1, 23))"),
        (lambda case: length(case) == 129, "Gates('float32', (1, 1, 129))"),
        (lambda case: (forget(case) < -83).any(), "Gates('float32', (1, 1, 1), fgate=Constant(-84.0))"),
        (lambda case: 0 in case["gates"].shape, "Gates('float32', (1, 1, 0))"),
        (lambda case: case["gates"].shape[1] > 2, "Gates('float32', (1, 3, 1))"),
        (
            lambda case: case["gates"].igate_layout == "strided" and length(case) > 1,
            "Gates('float32', (1, 1, 2), igate_layout='strided')",
        ),
        (
            lambda case: (
                length(case) > 1 and (forget(case)[..., 0] < -9).any() and (forget(case)[..., 1:] == 0).any()
            ),
            "Gates('float32', (1, 1, 2), fgate=Edited(Constant(0.0), (((0, 0, 0), -10.0),)))",
        ),
    ],
)
def test_what_matters_is_all_that_is_left(breaks: Callable[[Case], bool], least: str) -> None:
    """Whatever does not matter is cut off, dropped and rounded around what does."""
    assert way_down(dtilde.GATES, Domain(), breaks) == least


@pytest.mark.parametrize("law", [law for law in LAWS.values() if law.cases.inside], ids=lambda law: law.name)
def test_what_a_law_takes_is_inside(law: Law) -> None:
    """The part of a case that a law takes tells whether it lies in the law's domain."""
    inside = law.cases.inside
    assert inside is not None
    assert all(inside(law.arguments(case), Domain()) for case in law.cases.ladder(Domain()))


def test_one_edit_of_two() -> None:
    """An edit that does not matter is dropped, whatever stands beneath it."""
    edits = (((0, 0, 1), 3.0), ((0, 0, 2), -9.0))
    case = {"gates": Gates("float32", (1, 1, 4), fgate=Edited(Constant(7.5), edits))}

    def breaks(case: Case) -> bool:
        f = forget(case)[0, 0]
        return len(f) == 4 and bool(f[0] == f[3] == 7.5 and f[2] == -9)

    least = way_down(dtilde.GATES, Domain(), breaks, case)
    assert least == "Gates('float32', (1, 1, 4), fgate=Edited(Constant(7.5), (((0, 0, 2), -9.0),)))"


@pytest.mark.parametrize("deadly", [17, 5])
def test_a_device_that_failed_for_good(deadly: int) -> None:
    """Where every call fails once one has, searching or shrinking, the first finding is shown."""
    failed = []

    def dies(igate_preact: Tensor, fgate_preact: Tensor) -> Any:
        S = igate_preact.shape[2]
        failed.extend([1] if S == deadly else [])
        if failed:
            raise RuntimeError("an illegal memory access was encountered")
        return masked_cumulative_sum(igate_preact, fgate_preact) + (S == 17)

    subject = DtildeSubject(Implementation.of("dies", dies), "float32")
    record = Record("values", "dies", "float32", "cpu")
    with pytest.raises(LawBroken):
        search(LAWS["values"], subject, record, PROFILE)
    assert record.case == "gates = Gates('float32', (1, 1, 17))"

"""Verdicts: classes before values, balls before accusations, and a message that can be believed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from dmat.strategies import Constant, Gates
from dmat.testing.kernel.call import raised
from dmat.testing.kernel.dtilde import Run
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import FINITE, NAN_OR_NEG_INF, NEG_INF
from dmat.testing.record import Record
from dmat.testing.registry import laws
from dmat.testing.run.search import Failed, search
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict.finding import Expected, Finding, LawBroken
from dmat.testing.verdict.require import require, require_same, require_within

from .zoo.sound import masked_cumulative_sum as right

SUBJECT = DtildeSubject(Implementation.of("right", right), "float64")
GATES = Gates("float64", (1, 1, 3), Constant(1.0), Constant(-1.0))
ENTRY = (0, 0, 2, 0)


def expected() -> tuple[Run, Expected]:
    """Return a run of a right implementation and what it must be."""
    run = SUBJECT.forward(GATES)
    return run, SUBJECT.expected_dtilde(run)


def off_by(times: float) -> np.ndarray:
    """Return D~ with one entry this many bounds above the truth, to the last bit of float64."""
    run, must = expected()
    dtilde = run.dtilde.copy()
    dtilde[ENTRY] = must.value.hi[ENTRY] + times * must.bound.bound[ENTRY]
    return dtilde


def test_an_error_within_the_bound_is_let_pass() -> None:
    """Three quarters of the bound are no finding, and are reported as 0.75 but for rounding."""
    _, must = expected()
    ulp = math.ulp(must.value.hi[ENTRY]) / must.bound.bound[ENTRY]
    assert abs(require_within(off_by(0.75), must) - 0.75) <= ulp


def test_an_error_beyond_the_bound_is_found() -> None:
    """One and a quarter of it are, with where, computed, exact, error and allowed."""
    _, must = expected()
    with pytest.raises(LawBroken) as caught:
        require_within(off_by(1.25), must)
    finding = caught.value.finding
    assert (finding.quantity, finding.index) == ("D~", ENTRY)
    assert finding.allowed == must.bound.bound[ENTRY]
    assert finding.error is not None
    assert finding.error > must.bound.bound[ENTRY]
    assert float(finding.computed) == off_by(1.25)[ENTRY]
    assert float(finding.exact) == must.value.hi[ENTRY]


def test_nothing_is_accused_that_a_ball_does_not_confirm() -> None:
    """Where the fast oracle is wrong, and says so in its slack, the ball decides."""
    run, must = expected()
    lost = Expected(
        must.quantity, must.kind, must.value + must.value, must.slack + 100, must.bound, must.ball
    )
    require_within(run.dtilde, lost)


def test_classes_come_before_values() -> None:
    """A NaN is found before an error that stands earlier."""
    _, must = expected()
    dtilde = off_by(1e6)
    dtilde[0, 0, 2, 2] = math.nan
    with pytest.raises(LawBroken, match=r"h=0, t=2, s=2\]\n  computed  NaN\n  exact     1\.0"):
        require_within(dtilde, must)


@pytest.mark.parametrize(
    ("kind", "value", "is_right"),
    [
        (FINITE, math.inf, False),
        (NEG_INF, -math.inf, True),
        (NEG_INF, -1e308, False),
        (NEG_INF, math.nan, False),
        (NAN_OR_NEG_INF, math.nan, True),
        (NAN_OR_NEG_INF, -math.inf, True),
        (NAN_OR_NEG_INF, 0.0, False),
    ],
)
def test_classes(kind: int, value: float, is_right: bool) -> None:
    """An entry is of the class that its gates give it; a large number is no infinity."""
    run, must = expected()
    must.kind[ENTRY] = kind
    run.dtilde[ENTRY] = value
    if is_right:
        require_within(run.dtilde, must)
    else:
        with pytest.raises(LawBroken):
            require_within(run.dtilde, must)


def test_bits() -> None:
    """NaN equals NaN, 0 equals -0, and the next number is another."""
    require_same("D~", np.array([math.nan, 0.0]), np.array([math.nan, -0.0]))
    with pytest.raises(LawBroken):
        require_same("D~", np.array([1.0]), np.array([math.nextafter(1, 2)]))


def broken(check: Callable[[], object]) -> Finding:
    with pytest.raises(LawBroken) as caught:
        check()
    return caught.value.finding


def test_a_finding_says_what_is_wrong() -> None:
    """Finding.what is the way in which an entry, a tensor or a call is wrong; no text need be read for it."""
    one, nan = np.array([1.0]), np.array([math.nan])
    assert broken(lambda: require_same("D~", one, 2 * one)).what == "value"
    assert broken(lambda: require_same("D~", nan, one)).what == "class"
    assert broken(lambda: require(False, "D~", "torch.sparse_coo", "a strided tensor")).what == "shape"
    called = raised("D~", SystemExit("shares memory with igate_preact"))
    assert (called.what, called.detail) == ("raised", "SystemExit")


MESSAGE = """\
values: Every entry is within the bound of rounding of D~, and -inf, +inf and NaN stand where they must.
does not hold for one too much, float32 on cpu:
  D~[b=0, h=0, t=0, s=0]
    computed  1.0
    exact     0
    error     1 = 1.7e+37 x the 5.88e-38 allowed
    torch     0.0 (error 0 x the allowed) by a masked cumulative sum in float32
    gates     i[0] = 0.0, no forget gate
  wrong at S = 1: every entry
  wrong at S = 64: all of the causal part (t >= s)
on the case
  from dmat.strategies import *
  gates = Gates('float32', (1, 1, 1))
  igate_preact, fgate_preact = gates.build('cpu')"""


def one_too_much(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~ + 1."""
    return right(igate_preact, fgate_preact) + 1


def accused(function: object, law: str) -> tuple[str, Record]:
    """Return the message with which a law rejects a function, and its record."""
    subject = DtildeSubject(Implementation.of("one too much", function), "float32")  # type: ignore[arg-type]
    entry = next(entry for entry in laws() if entry.name == law)
    record = Record(law, "one too much", "float32", "cpu")
    with pytest.raises(Failed) as caught:
        search(entry, subject, record, settings(database=None))
    return str(explained_and_kept(entry, subject, caught.value.failure, Session())[0]), record


def test_the_whole_message() -> None:
    """Law in words, subject, where, computed, exact, error, allowed, and a case to paste."""
    message, record = accused(one_too_much, "values")
    assert message == MESSAGE
    assert record.case == "gates = Gates('float32', (1, 1, 1))"


def test_a_case_that_holds_when_tried_again() -> None:
    """An implementation that answers the same call in two ways is told so, with what it answered first."""
    calls = []

    def wrong_once(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        dtilde = right(igate_preact, fgate_preact)
        calls.extend([1] if dtilde.isfinite().any() else [])  # adding 1 to infinities changes nothing
        return dtilde + (len(calls) == 60)

    message, _ = accused(wrong_once, "values")
    assert "does not answer the same call alike" in message
    assert "computed" in message


def test_an_exception_is_a_finding() -> None:
    """A call that raises breaks the law that made it; the message has the exception, not its frames."""

    def raises_at_two(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        if igate_preact.shape[2] == 2:
            raise RuntimeError("no kernel for S = 2\nand more")
        return right(igate_preact, fgate_preact)

    message, record = accused(raises_at_two, "future")
    assert "computed  raised RuntimeError: no kernel for S = 2\n" in message
    assert "and more" not in message
    assert record.case == "gates = Gates('float32', (1, 1, 2))"


def test_a_wrong_shape_or_dtype_is_a_finding() -> None:
    """What is returned must be a tensor of the shape, dtype and device of docs/spec.md section 1."""

    def widened(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return right(igate_preact, fgate_preact).double()

    assert "computed  a torch.float64 tensor (1, 1, 1, 1) on cpu" in accused(widened, "output_shape")[0]
    assert "computed  a NoneType" in accused(lambda i, f: None, "output_shape")[0]


def test_subjects_do_not_share_results() -> None:
    """Each run sees the gates as they were when it was called."""
    igate, fgate = GATES.build()
    run = SUBJECT.forward_of(igate, fgate)
    igate.add_(1)
    assert (run.igate == 1).all()
    assert torch.equal(igate, torch.full_like(igate, 2))

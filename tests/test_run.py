"""run() tries laws without pytest, and gives one record for each law, dtype and device."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

import dmat
from dmat.reference import masked_cumulative_sum
from dmat.strategies import Constant, Cotangent, Gates, Heads
from dmat.strategies.recipes.backgrounds import Background
from dmat.testing.contract import Contract
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.run import run
from dmat.testing.run.search import search
from dmat.testing.run.session import Session
from dmat.testing.run.shapes import LONGEST, not_allowed, with_fewer_heads

FEW = settings(max_examples=5, database=None)
RIGHT = Implementation("right", dmat.dtilde, Contract())
VALUES, FUTURE = law_named("values"), law_named("future")


def test_one_record_for_each_law_and_dtype() -> None:
    """Laws come in the order given, and each law in every dtype."""
    records = list(run(RIGHT, [VALUES, FUTURE], ["float32", "float16"], ["cpu"], profile=FEW))
    assert [(r.law, r.dtype, r.status) for r in records] == [
        ("values", "float32", "passed"),
        ("values", "float16", "passed"),
        ("future", "float32", "passed"),
        ("future", "float16", "passed"),
    ]
    assert all(r.examples > 5 and r.worst is not None for r in records if r.law == "values")


def test_a_record_comes_as_soon_as_its_law_is_done() -> None:
    """The second law is not tried before the first record is taken."""
    tried: list[str] = []

    def spied(name: str) -> Any:
        def check(subject: object, **case: object) -> None:
            tried.append(name)

        return replace(VALUES, name=name, check=check)

    records = run(RIGHT, [spied("one"), spied("two")], ["float32"], ["cpu"], profile=FEW)
    assert next(records).law == "one"
    assert set(tried) == {"one"}


def test_no_law_begins_after_until() -> None:
    """A time that has passed gives no record."""
    assert not list(run(RIGHT, [VALUES], ["float32"], ["cpu"], time.monotonic()))


@pytest.mark.parametrize("explains", [True, False])
def test_a_broken_law_is_a_record(explains: bool) -> None:
    """The record has the smallest case; the message is composed only if the session asks for it."""
    wrong = Implementation("wrong", lambda i, f: dmat.dtilde(i, f) + 1, Contract())
    [record] = run(wrong, [VALUES], ["float32"], ["cpu"], profile=FEW, session=Session(explains=explains))
    assert (record.status, record.ended) == ("failed", "broken")
    assert record.recipe is not None
    assert ("on the case" in record.reason) == explains


def test_an_error_of_the_law_accuses_no_kernel() -> None:
    """The law is not run, with the error and its traceback, and the next law is tried."""

    def check(subject: object, **case: object) -> None:
        raise ZeroDivisionError("of the law")

    laws = [replace(VALUES, check=check), FUTURE]
    first, second = run(RIGHT, laws, ["float32"], ["cpu"], profile=FEW)
    assert (first.status, first.promised) == ("not run", True)
    assert first.reason == "the law itself raised ZeroDivisionError: of the law"
    assert "Traceback" in first.traceback
    assert second.status == "passed"


def test_a_refusal_is_that_of_one_head() -> None:
    """A case that the kernel refuses for the gates of one head is tried head by head, and the law held."""

    def timid(i: Tensor, f: Tensor) -> Tensor:
        if torch.autograd.forward_ad._current_level >= 0 and not f.isfinite().all():
            raise NotImplementedError("infinite gates in forward mode")
        return dmat.dtilde(i, f)

    law = law_named("adjoint")
    subject = DtildeSubject(Implementation("timid", timid, Contract()), "float32", part="ladder")

    def refused(fgate: Background) -> int:
        gates = Gates("float32", (1, 2, 3), Constant(0.0), fgate)
        case = {"gates": gates, "direction": replace(gates, fgate=Constant(1.0)), "cotangent": Cotangent()}
        record = Record(law.name, "timid", "float32", "cpu")
        search(
            replace(law, cases=replace(law.cases, ladder=lambda domain: iter([case]))), subject, record, FEW
        )
        return record.refused

    assert refused(Heads((Constant(-1.0), Constant(-math.inf)))) == 0
    with pytest.raises(Refused):
        refused(Constant(-math.inf))


def test_what_cannot_be_called_is_told_in_the_record() -> None:
    """A wrong signature is a field of the record, not a word in its reason."""
    [record] = run(
        Implementation("unary", lambda i: i, Contract()), [VALUES], ["float32"], ["cpu"], profile=FEW
    )
    assert record == Record(
        "values",
        "unary",
        "float32",
        "cpu",
        status="not run",
        reason=record.reason,
        uncallable=True,
        seconds=record.seconds,
    )


def test_a_shape_of_the_user_is_tried() -> None:
    """A kernel that is wrong at one shape alone falls by values and by gradients if it is named."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) * (2 if i.shape[:3] == (2, 3, 70) else 1)

    laws = [law_named(name) for name in ("values", "input_gradient", "future")]

    def statuses(session: Session) -> list[str]:
        wrong = Implementation("wrong", kernel, Contract())
        every = run(wrong, laws, ["float32"], ["cpu"], profile=FEW, session=session)
        return [record.status for record in every]

    assert statuses(Session(seed=1)) == ["passed"] * 3
    assert statuses(Session(seed=1, shapes=((2, 3, 70),))) == ["failed", "failed", "passed"]


def test_a_shape_too_large_for_the_oracle_gets_fewer_heads() -> None:
    """Heads and batches are left out, never times."""
    assert with_fewer_heads((2, 4, 64)) == (2, 4, 64)
    assert with_fewer_heads((8, 16, 4096, 128, 128)) == (1, 4, 4096)
    assert with_fewer_heads((8, 2, 4096)) == (2, 2, 4096)
    assert with_fewer_heads((1, 1, LONGEST)) == (1, 1, LONGEST)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [((1, 2, 64), None), ((1, 2, 65), "S = 65"), ((1, 1, 2 * LONGEST), "S above 8192")],
)
def test_a_shape_must_be_allowed(sizes: tuple[int, ...], why: str | None) -> None:
    """A length that the contract does not allow, or of which no truth fits into memory, is named."""
    own = Implementation("k", dmat.dtilde, Contract(seq_multiple_of=64))
    reason = not_allowed(DtildeSubject(own, "float32"), sizes)
    assert (reason or "").startswith(why or "")
    assert (reason is None) == (why is None)

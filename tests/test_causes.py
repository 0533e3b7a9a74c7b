"""Findings are grouped by bug: one bug is one finding, however many laws it breaks; two bugs are two."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmat.reference import masked_cumulative_sum
from dmat.strategies import Constant, Cotangent, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.causes.compare import completed, symptom
from dmat.testing.causes.known import Cell
from dmat.testing.contract import Contract
from dmat.testing.counterexample.database import recall, remember
from dmat.testing.fuzzing.messages import PlannedCell, Turn
from dmat.testing.fuzzing.profile import fuzzing
from dmat.testing.fuzzing.tally import Sum
from dmat.testing.fuzzing.turn import Going
from dmat.testing.kernel.call import raised
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.registry import law_named, laws
from dmat.testing.run.session import Session
from dmat.testing.verdict.finding import Finding

from .zoo.named import ALL
from .zoo.night import past_256

TRIED = ("exact", "future", "closed_input_gate", "masked_cotangent", "forget_gradient")
ONE = ("mask_of_1e9", "carry_forgotten", "tail_gradient_dropped", "past_256")


def found(kernels: list[Callable[[Tensor, Tensor], Tensor]], folder: Path, dtypes: tuple[str, ...]) -> Sum:
    """Take two turns of each of TRIED on each of the kernels, all under one name; return what was found."""
    planned = [PlannedCell(Cell(law, "kernel", dtype, "cpu"), 0) for law in TRIED for dtype in dtypes]
    total, number = Sum(planned), 0
    for kernel in kernels * 2:
        for cell in total.cells:
            number += 1
            subject = DtildeSubject(Implementation("kernel", kernel, Contract()), cell.dtype)
            symptoms, causes = dict(total.tallies[cell].symptoms), total.causes("kernel")
            turn = Turn(str(number), cell, number, 0.0, least=40, symptoms=symptoms, causes=causes)
            done = Going(turn, subject, Session(), fuzzing(folder), folder, time.time() + 60).go()
            assert not done.trouble
            for one in done.found:
                total.note(one)
            total.add(done)
    return total


@pytest.mark.parametrize("name", ONE)
def test_one_bug_is_one_finding(name: str, tmp_path: Path) -> None:
    """A mutant that breaks many laws in two dtypes is found once, small, with the rest beside it."""
    kernel = past_256 if name == "past_256" else ALL[name]
    total = found([kernel], tmp_path, ("float32", "bfloat16"))
    assert len(total.findings) == 1
    assert total.findings[0].also
    assert "Gates('" in total.findings[0].found.case
    assert total.findings[0].found.case.count("Edited") <= 1


def test_two_bugs_are_two_findings(tmp_path: Path) -> None:
    """A kernel that masks by -1e9, and whose gradient drops the tail, is found to be wrong in two ways."""

    def both(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        output: Tensor = ALL["tail_gradient_dropped"](igate_preact, fgate_preact)
        return output.nan_to_num(neginf=-1e9)

    total = found([both], tmp_path, ("float32",))
    assert {f.found.symptom for f in total.findings} == {
        "D~ above the diagonal: a number for -inf",
        "df: a number for a number",
    }


def test_what_is_known_is_counted_and_gone_past(tmp_path: Path) -> None:
    """A cell goes on past failures of a known symptom: it counts them, and keeps none of them again."""
    cell = Cell("future", "kernel", "float32", "cpu")
    subject = DtildeSubject(Implementation("kernel", ALL["mask_of_1e9"], Contract()), "float32")
    known = {"D~ above the diagonal: a number for -inf": 0}
    turn = Turn("1", cell, 1, 0.0, least=50, symptoms=known)
    done = Going(turn, subject, Session(folder=tmp_path), fuzzing(tmp_path), tmp_path, time.time() + 60).go()
    assert done.examples == 50
    assert not done.found
    assert sum(done.failing.values()) > 10
    assert [file.name for file in tmp_path.iterdir()] in ([], ["hypothesis"])


def test_what_led_furthest_is_tried_first(tmp_path: Path) -> None:
    """A led turn leaves in the database what came nearest to the bound: the next one begins with it."""

    def worst(seed: int, least: int) -> float:
        subject = DtildeSubject(Implementation("kernel", masked_cumulative_sum, Contract()), "float32")
        cell = Cell("values", "kernel", "float32", "cpu")
        turn = Turn("1", cell, seed, 0.1, least=least, targeted=True)
        done = Going(turn, subject, Session(), fuzzing(tmp_path), tmp_path, time.time() + 60).go()
        assert done.worst is not None
        return done.worst

    furthest = worst(7, least=150)
    assert worst(8, least=20) >= furthest


def trying(case: Case) -> AbstractContextManager[None]:
    return nullcontext()


def test_completed_cases_are_allowed() -> None:
    """Whatever parts a law takes that a case lacks, the completed case is one that the contract allows."""
    subject = DtildeSubject(Implementation("kernel", masked_cumulative_sum, Contract()), "float32")
    case: Case = {"gates": Gates("float32", (1, 1, 3), fgate=Constant(-64.0)), "cotangent": Cotangent()}
    tried = 0
    for law in laws():
        for whole in completed(case, law, subject):
            assert tuple(whole) == law.parameters
            assert law.cases.inside is not None
            assert law.cases.inside(whole, subject.domain)
            tried += 1
    assert tried > 30


def test_symptoms_leave_numbers_out() -> None:
    """Failures that differ in numbers alone have one symptom; those across the diagonal have another."""
    one = Finding("D~", (0, 0, 3, 1), "1.5", "2.5", what="value")
    assert symptom(one) == symptom(Finding("D~", (1, 0, 9, 2), "-7.0", "3", what="value"))
    assert symptom(one) != symptom(Finding("D~", (0, 0, 1, 3), "1.5", "2.5", what="value"))
    assert symptom(one) != symptom(Finding("D~", (0, 0, 3, 1), "NaN", "2.5", what="class"))
    errors = [raised("call", ValueError(f"S is {n}")) for n in (17, 33)]
    assert symptom(errors[0]) == symptom(errors[1])


def test_no_memory_is_a_shorter_case(tmp_path: Path) -> None:
    """A kernel that finds no memory for a long sequence is not accused, and is tried on shorter ones."""

    def kernel(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        if igate_preact.shape[2] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return masked_cumulative_sum(igate_preact, fgate_preact)

    subject = DtildeSubject(Implementation("kernel", kernel, Contract()), "float32")
    turn = Turn("1", Cell("values", "kernel", "float32", "cpu"), 3, 5.0)
    going = Going(turn, subject, Session(), fuzzing(tmp_path), tmp_path, time.time() + 60)
    assert going.domain.longest > 1000
    going.attempt({"gates": Gates("float32", (1, 1, 1050))})
    assert going.out_of_memory == 1
    assert not going.found
    assert going.domain.longest < 1000
    assert law_named("values") == going.law
    going.attempt({"gates": Gates("float32", (1, 1, 101))})
    assert len(going.found) == 1  # memory for so few entries there must be


def test_what_could_not_be_tried_is_not_forgotten(tmp_path: Path) -> None:
    """A remembered case for which there is no memory stays remembered; one that holds does not."""

    def kernel(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        if igate_preact.shape[2] > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return masked_cumulative_sum(igate_preact, fgate_preact)

    subject = DtildeSubject(Implementation("kernel", kernel, Contract()), "float32")
    profile, place = fuzzing(tmp_path), ("values", "kernel", "float32", "cpu")
    long, short = ({"gates": Gates("float32", (1, 1, S))} for S in (1050, 5))
    for case in (long, short):
        remember(profile.database, *place, case)
    turn = Turn("1", Cell(*place), 3, 0.0, first=True)
    done = Going(turn, subject, Session(), profile, tmp_path, time.time() + 60).go()
    assert done.out_of_memory == 1
    assert recall(profile.database, law_named("values"), subject) == [long]

"""`dmat grade`: known answers, and a class is lost by what breaks it and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import Tensor

import dmat.testing
from dmat.strategies import Constant, Cycle, Gates
from dmat.testing.bounds.dtilde import forward_bound
from dmat.testing.contract import DTYPES, Contract
from dmat.testing.grade.dtilde import Ledger, classes, grade
from dmat.testing.grade.result import AccuracyClass
from dmat.testing.kernel.builtin import COMPARED
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.dtilde import Forward
from dmat.testing.verdict.finding import Finding, LawBroken, as_array

from .zoo import sound

SCHEMA = json.loads((Path(dmat.testing.__file__).parent / "grade" / "grade.schema.json").read_text())
DTILDE, DIFFERENCE, MASKED = COMPARED
FEW = 20  # random cases: the ladder alone tells these classes apart
Names = tuple[str, str]  # the classes of the forward and of the gradients


def silent(told: object) -> None:
    """Hear nothing."""


def graded(implementation: Implementation, dtype: str) -> Names:
    """Return the classes as the table shows them."""
    torch.set_num_threads(1)
    ledgers = grade(DtildeSubject(implementation, dtype), FEW, silent).ledgers
    return str(ledgers["forward"].strictest), str(ledgers["gradients"].strictest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_built_in_three(dtype: str) -> None:
    """dtilde is (window, float64) in every dtype, the masked sum window, the difference prefix."""
    wide = "float64" if dtype == "float64" else "float32"
    assert graded(DTILDE, dtype) == ("window, float64",) * 2
    assert graded(MASKED, dtype) == (f"window, {wide}",) * 2
    assert graded(DIFFERENCE, dtype) == (f"prefix, {wide}",) * 2


UNLIKE: dict[str, Names] = {  # in float32
    "masked_cumulative_sum_wide": ("window, float64", "window, float64"),
    "chunkwise_difference": ("chunk 16, float32", "prefix, float32"),
    "suffix_sum_difference": ("sequence, float32", "prefix, float32"),
    "log_of_one_plus_exp": ("window, float32*", "window, float32"),
    "one_minus_sigmoid": ("window, float32", "window, float32*"),
}


@pytest.mark.parametrize("style", UNLIKE)
def test_unlike_styles(style: str) -> None:
    """The scope, the accumulator and the gates of a style are found from its results alone."""
    bare = Implementation(style, getattr(sound, style), Contract())
    assert graded(bare, "float32") == UNLIKE[style]


def test_half_type_in_its_own_format() -> None:
    """A half type summed in itself survives its own format, and nothing wider."""
    own = Implementation("own", sound.all_in_bfloat16, Contract())
    assert graded(own, "bfloat16")[0] == "window, bfloat16"


def test_a_wrong_entry_is_in_no_class() -> None:
    """Who is wrong by more than rounding survives no class, and the case that says so is kept."""

    def shifted(i: Tensor, f: Tensor) -> Tensor:
        return sound.masked_cumulative_sum(i, f.roll(1, dims=2))

    result = grade(DtildeSubject(Implementation("shifted", shifted, Contract()), "float32"), FEW, silent)
    ledger = result.result().forward
    assert ledger is not None
    assert ledger.strictest is None
    assert len(ledger.classes) == len(classes("float32", "forward"))
    assert all("gates = Gates(" in (lost.case or "") for lost in ledger.classes)


def test_a_backward_that_raises_costs_the_gradients_alone() -> None:
    """What raises in its backward is still graded in its forward."""

    class Raises(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, D: Tensor) -> Tensor:
            return D.clone()

        @staticmethod
        def backward(ctx: object, *G: Tensor) -> Tensor:
            raise NotImplementedError("no backward")

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        result: Tensor = Raises.apply(sound.masked_cumulative_sum(i, f))  # type: ignore[no-untyped-call]
        return result

    found = graded(Implementation("kernel", kernel, Contract()), "float32")
    assert found == ("window, float32", "None")


def test_a_class_implies_those_whose_bounds_hold_its_own() -> None:
    """One class implies another only where each of its bounds is within the other's; the first, all."""
    every = classes("bfloat16", "forward")
    bounds: dict[AccuracyClass, list[Array]] = {one: [] for one in every}
    for f in (Cycle((3.0, -1.0, -40.0)), Constant(80.0)):  # open gates: there an absolute error is large
        igate, fgate = (as_array(x)[..., 0] for x in Gates("bfloat16", (1, 2, 150), fgate=f).dense())
        truth = Forward.of(igate, fgate, wide=True)
        for one in every:
            bounds[one].append(forward_bound(truth, one.rounding("bfloat16")).bound)
    for one, other in product(every, every):
        if one.implies(other):
            assert all((a <= b).all() for a, b in zip(bounds[one], bounds[other], strict=True))
    assert all(every[0].implies(other) for other in every)


def test_a_class_that_holds_speaks_for_no_other() -> None:
    """On one case all classes fall that do not hold, though some that does came before them."""

    def judge(accuracy: AccuracyClass) -> float:
        if accuracy.accumulates_in == "float64":
            raise LawBroken(Finding("D~", (0, 0, 0, 0), "1.0", "0", what="value"))
        return 0.5

    every = classes("float32", "forward")
    ledger = Ledger(dict.fromkeys(every))
    ledger.judge(judge, {"gates": Gates("float32", (1, 1, 1))})
    assert set(ledger.standing) == {one for one in every if one.accumulates_in == "float32"}
    assert str(ledger.strictest) == "window, float32"


def same_bits(implementation: Implementation, dtype: str) -> dict[tuple[str, str], bool]:
    """Return whether each pair of calls gives the same bits."""
    found = grade(DtildeSubject(implementation, dtype), FEW, silent).identity.found
    return {name: one.worst == 0 for name, one in found.items()}


def test_bits_alone() -> None:
    """A sum from the end depends on the length; one shifted by the batch's maximum, on the batch."""
    suffix = Implementation("suffix", sound.suffix_sum_difference, Contract())
    assert same_bits(suffix, "float32")["prefix", "D~"] is False

    def by_the_batch(i: Tensor, f: Tensor) -> Tensor:
        most = i.detach().amax() if i.numel() else 0.0
        return sound.masked_cumulative_sum(i - most, f) + most

    batch = Implementation("batch", by_the_batch, Contract())
    assert same_bits(batch, "float32")["batch", "D~"] is False
    assert all(same_bits(replace(DTILDE), "float32").values())


KERNELS = """
import os
from dmat.reference import masked_cumulative_sum
from dmat.testing import implementation

@implementation(dtypes=("float32", "float16"), max_seq=3)
def dies(i, f):
    if i.dtype.itemsize == 4 and i.shape[2] == 3:
        os._exit(7)
    return masked_cumulative_sum(i, f)

@implementation(dtypes=("float32",), max_seq=3)
def off(i, f):
    print("to be dropped")
    return masked_cumulative_sum(i, f) * 1.5
"""


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A kernel that dies in one dtype is graded in the next; JSON follows the schema; exit 2, else 0."""
    from dmat.testing.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels.py").write_text(KERNELS)
    options = ["--examples", "5", "--json", "g.json"]
    assert main(["grade", "kernels.py:dies", "kernels.py:off", *options]) == 2
    shown = capfd.readouterr().out
    assert "not graded: kernels.py:dies, float32 on cpu: its process died, exit code 7, on the case" in shown
    assert "none: the forward of kernels.py:off, float32 on cpu is in no class" in shown
    report = json.loads((tmp_path / "g.json").read_text())
    jsonschema.validate(report, SCHEMA)
    dies, off = report
    assert [bool(grade["reason"]) for grade in dies["grades"]] == [True, False]
    assert off["grades"][0]["forward"]["class"] is None
    assert main(["grade", "kernels.py:off", "--examples", "5"]) == 0
    assert "to be dropped" not in capfd.readouterr().out

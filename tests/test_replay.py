"""`dmat replay`: still broken, fixed, could not run; of any case, on any kernel, and whatever it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmat.strategies import QKV, Constant, Gates, Normal
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import CaseFile, parts_of
from dmat.testing.cli import main
from dmat.testing.contract import Contract
from dmat.testing.counterexample import replay
from dmat.testing.counterexample.attempt import tried
from dmat.testing.counterexample.corpus import Corpus
from dmat.testing.counterexample.folder import add_also, keep, write_case
from dmat.testing.counterexample.outcome import BROKEN, COULD_NOT, FIXED, Wanted
from dmat.testing.errors import CaseError
from dmat.testing.kernel.implementation import Implementation

from .zoo.sound import masked_cumulative_sum as right

KERNELS = """
import os, time
from dmat.reference import masked_cumulative_sum as right

def wrong(i, f):
    return right(i, f) + 1

def ends_badly(i, f):
    if f.shape[2] == 2:
        os.abort()
    while f.shape[2] == 3:
        time.sleep(1)
    return right(i, f)
"""


OLD_DELTA = """
from dmat.testing import fused

rule = fused(lambda q, k, v, l: v, keys="orthonormal")
"""
NEW_DELTA = """
from dmat.testing import fused

rule = fused(lambda q, k, v, l, beta: v, reads="delta")
"""


def case(S: int = 1, dtype: str = "float32") -> Case:
    return {"gates": Gates(dtype, (1, 1, S), Constant(0.25), Constant(-1.0))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: kernels, and a folder of three cases, of lengths 1, 2 and 3."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels.py").write_text(KERNELS)
    for S in (1, 2, 3):
        (tmp_path / "cases" / str(S)).mkdir(parents=True)
        file = CaseFile("values", "kernels.py:wrong", "float32", "cpu", parts_of(case(S)))
        write_case(tmp_path / "cases" / str(S), file, case(S))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--impl", "kernels.py:wrong"], BROKEN, 1),
        (["--impl", "kernels.py:right"], FIXED, 0),
        ([], COULD_NOT, 2),
        (["--impl", "kernels.py:gone"], COULD_NOT, 2),
    ],
)
def test_what_became_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: str, code: int
) -> None:
    """A line a case, and the exit code; without a TARGET nothing is imported, so nothing can be tried."""
    assert main(["replay", "cases", *arguments]) == code
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed if not line.startswith(" ")] == [status] * 3


def test_a_kernel_that_dies_or_hangs(folder: Path) -> None:
    """Both are still broken, and the cases after them are tried all the same."""
    wanted = Wanted("kernels.py:ends_badly")
    outcomes = replay.replay([folder / "cases" / str(S) / "case.json" for S in (2, 3, 1)], wanted, seconds=2)
    assert [outcome.status for outcome in outcomes] == [BROKEN, BROKEN, FIXED]
    assert outcomes[0].text.startswith("the process died: ")
    assert outcomes[1].text == "no result in 2 s"


def test_other_dtypes_and_devices() -> None:
    """A case of one dtype is tried in another, its values rounded anew, if the contract promises that."""
    half = Implementation("half", right, Contract(dtypes=("bfloat16",)))
    assert tried("values", half, "bfloat16", "cpu", case())[0] == FIXED
    assert tried("values", half, "float32", "cpu", case()) == (COULD_NOT, "half does not promise float32")
    if not torch.cuda.is_available():
        assert "this machine has none" in tried("values", half, "bfloat16", "cuda", case())[1]


@pytest.mark.parametrize(
    ("law", "contract", "parts", "why"),
    [
        ("no_such_law", Contract(), case(), "there is no law 'no_such_law'"),
        ("values", Contract(max_seq=4), case(5), "the contract of k does not allow the case"),
        ("input_gradient", Contract(differentiable=False), case(), "contract: differentiable=False"),
        ("input_gradient", Contract(), case(), "the law input_gradient takes gates, cotangent"),
    ],
)
def test_nothing_is_accused_of_what_it_does_not_promise(
    law: str, contract: Contract, parts: Case, why: str
) -> None:
    """A case beyond the contract, or of another law's form, could not run: that is no verdict."""

    def wrong(i: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return right(i, f) + 1

    status, text = tried(law, Implementation("k", wrong, contract), "float32", "cpu", parts)
    assert (status, why in text) == (COULD_NOT, True)


def test_an_old_case_of_a_delta_rule_says_what_to_write(folder: Path) -> None:
    """With an old contract it could not run, and says what to write; with a new one, that the case is old."""
    parts: Case = {"gates": Gates("float32", (1, 1, 2)), "qkv": QKV(K=4)}
    file = CaseFile("values", "delta.py:rule", "float32", "cpu", parts_of(parts))
    (folder / "old").mkdir()
    write_case(folder / "old", file, parts)
    for source, wanted in (
        (OLD_DELTA, 'write reads="delta" in its place, and let fn take beta'),
        (NEW_DELTA, 'keys="orthonormal", which is gone'),
    ):
        (folder / "delta.py").write_text(source)
        (one,) = replay.replay([folder / "old" / "case.json"], Wanted("delta.py:rule", None, None))
        assert (one.status, wanted in one.text) == (COULD_NOT, True), one.text


def test_a_kernel_that_is_wrong_by_chance_is_not_fixed() -> None:
    """A case is tried many times before it is called fixed."""
    calls: list[int] = []

    def sometimes(i: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return right(i, f) + (len(calls) % 21 == 0)

    assert tried("values", Implementation("k", sometimes, Contract()), "float32", "cpu", case())[0] == BROKEN


def test_the_time_limit_is_of_one_try(folder: Path) -> None:
    """A kernel that is right and slow is tried several times, and not called stuck for their sum."""
    slow = "def slow(i, f):\n    time.sleep(1.7)\n    return right(i, f)\n"
    (folder / "slow.py").write_text(KERNELS + slow)
    outcomes = replay.replay([folder / "cases" / "1" / "case.json"], Wanted("slow.py:slow"), seconds=6)
    assert [outcome.status for outcome in outcomes] == [FIXED]


def test_keeping(folder: Path) -> None:
    """Cases are copied under names of their own; of several of which one is torn, none is."""
    files = replay.found(folder / "cases")
    homes = keep(files[:1] * 2, folder / "corpus")
    assert [path.name for path in (folder / "corpus").iterdir()] == [homes[0].name]
    assert (homes[0] / "case.json").read_bytes() == files[0].read_bytes()
    assert keep(replay.found(folder / "corpus"), folder / "corpus") == homes[:1]
    files[2].write_text("{")
    with pytest.raises(CaseError):
        keep(files, folder / "another")
    assert not (folder / "another").exists()


def test_a_folder_replays_all_laws_of_its_cause(folder: Path) -> None:
    """A case in also/ is replayed, kept and tried first like any other, with random numbers of its own."""
    home, other = folder / "found" / "values-float32-1", folder / "found" / "diagonal-float32-2"
    for path, law, drawn in (
        (home, "values", {"gates": Gates("float32", (1, 1, 3), Normal(1), Normal(2))}),
        (other, "diagonal", {"gates": Gates("float32", (1, 1, 5), Normal(3), Normal(4))}),
    ):
        path.mkdir(parents=True)
        write_case(path, CaseFile(law, "kernels.py:wrong", "float32", "cpu", parts_of(drawn)), drawn)
    add_also(home, other)
    add_also(home, home)
    assert not other.exists()
    assert {str(path.relative_to(home)) for path in home.rglob("*.*")} == {
        "case.json",
        "tensors.safetensors",
        "also/diagonal-float32.json",
        "also/diagonal-float32.safetensors",
    }
    files = replay.found(folder / "found")
    assert files == replay.found(home) == [home / "case.json", home / "also" / "diagonal-float32.json"]
    outcomes = replay.replay(files, Wanted("kernels.py:wrong"))
    assert [outcome.status for outcome in outcomes] == [BROKEN, BROKEN]
    kept = keep(files, folder / "corpus")
    outcomes = replay.replay(replay.found(folder / "corpus"), Wanted("kernels.py:right"))
    assert [outcome.status for outcome in outcomes] == [FIXED, FIXED]
    assert [one.name.partition("--")[0] for one in kept] == ["values", "diagonal"]
    assert {one.file.law for one in Corpus.read(folder / "found").cases} == {"values", "diagonal"}


def test_a_path_without_a_case(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and one line that names the path."""
    assert main(["replay", "nowhere"]) == 2
    assert capsys.readouterr().err == "dmat: PATH is 'nowhere'; there is no case.json in it\n"

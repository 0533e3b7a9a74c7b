"""Repro scripts: each mutant's exits 1 with the mutant and 0 with a right kernel, and imports torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

from dmat.strategies import Constant, Cotangent, Gates, Ramp
from dmat.strategies.recipes.layouts import COTANGENT_LAYOUTS, lay_out
from dmat.strategies.recipes.recipe import Case
from dmat.testing import implementation
from dmat.testing.explain.repro import script as repro
from dmat.testing.explain.repro.literals import memory_of, written
from dmat.testing.explain.repro.recorder import ScriptRecorder
from dmat.testing.explain.repro.transcript import Transcript
from dmat.testing.kernel import runtime
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.kernel.recording import Recorder
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.processes import apart
from dmat.testing.registry import law_named
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict.finding import Failure, LawBroken

from .zoo.mutants import MUTANTS, Mutant
from .zoo.trial import first_rejection, subjects

ROOT = Path(__file__).resolve().parents[1]
ON_CPU = {mutant.name: mutant for mutant in MUTANTS if mutant.device == "cpu"}
PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate]) for n in (50, 2000)
]
NEEDS_ANOTHER_CALL = {"cached_by_shape"}  # right in a process that has made no other call


def found(mutant: Mutant) -> tuple[Law, Subject, Case]:
    """Return a case on which the mutant's law rejects it."""
    law, tried = law_named(mutant.law), subjects(mutant.implementation, mutant.name)
    rejection = first_rejection(law, tried, PROFILES)
    assert rejection
    subject = next(subject for subject in tried if subject.dtype == rejection.dtype)
    return law, subject, rejection.failure.case


def exit_codes(scripts: list[Path], *arguments: str) -> dict[str, int]:
    """Run every script in a process that has made no call; return the exit code of each."""
    command = [sys.executable, "-m", "tests.repro_driver", *arguments]
    paths = "\n".join(map(str, scripts))
    done = subprocess.run(command, cwd=ROOT, input=paths, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return {script.stem: int(line.split()[0]) for script, line in zip(scripts, lines, strict=True)}


def imported(script: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("name", sorted(NEEDS_ANOTHER_CALL))
def test_wrong_after_other_calls_only(name: str) -> None:
    """A kernel that is right in a new process is shown with a call on other gates before."""
    told = (*found(ON_CPU[name]), f"tests.zoo.named:{name}", ROOT)
    made = repro.confirmed(*told, repro.script(*told))
    assert made.repro
    assert made.remark == repro.EARLIER
    assert repro.exit_code(made.repro, "dmat:dtilde") == 0


KERNEL = """\
import os
import time

import torch
from torch.nn.functional import logsigmoid


def right(i, f):
    S = f.shape[2]
    past = torch.ones(S, S, dtype=torch.bool).tril()
    windows = torch.where(past.tril(-1), logsigmoid(f.squeeze(-1)).unsqueeze(-1), 0.0).cumsum(-2)
    return (windows + i.mT).masked_fill(~past, -torch.inf)


def aborts(i, f):
    return os.abort() if f.shape[2] > 1 else right(i, f)


def hangs(i, f):
    return time.sleep(1000) if f.shape[2] > 1 else right(i, f)


def leaves(i, f):
    raise SystemExit(0)


def raises(i, f):
    raise ValueError('not "so"')


def returns_none(i, f):
    return None


def swapped_heads(i, f):  # (B, S, NH)
    i, f = (x.transpose(1, 2).unsqueeze(-1) for x in (i, f))
    return right(i.flip(1), f)


def right_heads(i, f):
    return right(*(x.transpose(1, 2).unsqueeze(-1) for x in (i, f)))
"""
FORGETFUL = """\
{KERNEL}

_SEEN, _CALLS = {{}}, []


def cached(i, f):
    return _SEEN.setdefault((i.shape, i.dtype), right(i, f).detach()).clone()


def wrong_from_the_200th(i, f):
    _CALLS.append(1)
    return right(i, f) * (2 if len(_CALLS) >= 200 else 1)
"""


def kept_by_a_worker(folder: str, name: str, send: Any) -> tuple[str, str]:
    """Call the kernel 200 times, find a failure and keep it; return the message and the folder."""
    target = f"{folder}/kernel.py:{name}"
    subject, law = DtildeSubject(load(target), "float32"), law_named("values")
    case: Case = {"gates": Gates("float32", (1, 1, 1), Constant(1.0))}
    for _ in range(200):
        subject.answer(case, Gates("float32", (1, 1, 1)))
    with pytest.raises(LawBroken) as broken:
        law.check(subject, **case)
    failure = Failure(case, broken.value)
    told, home = explained_and_kept(law, subject, failure, Session(folder=Path(folder, "kept")))
    return str(told), str(home)


@pytest.mark.parametrize(
    ("name", "remark"),
    [("cached", "EARLIER"), pytest.param("wrong_from_the_200th", "UNCONFIRMED", marks=pytest.mark.night)],
)
def test_no_script_calls_the_accused_kernel_fixed(name: str, remark: str, tmp_path: Path) -> None:
    """A kernel with memory: its script exits 1 in every new process, or the folder says why it has none.

    As in `dmat check`, a daemon keeps the failure: it may start no process of multiprocessing.
    """
    (tmp_path / "kernel.py").write_text(FORGETFUL.format(KERNEL=KERNEL))
    told, home = apart(kept_by_a_worker, str(tmp_path), name, heard=lambda message: None)
    said = getattr(repro, remark)
    assert said in told
    assert said in Path(home, "report.md").read_text()
    script = Path(home, "repro.py")
    assert script.exists() == (name == "cached")
    if script.exists():
        assert [subprocess.run([sys.executable, script], check=False).returncode for _ in range(2)] == [1, 1]


GATES = Gates("float32", (1, 2, 3), Ramp(0.1, 0.1, 1.0), Ramp(-1.0, 0.3, 0.5), "strided", "offset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kernel.py").write_text(KERNEL)
    return tmp_path


def kernels(folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec((folder / "kernel.py").read_text(), names)
    return names


@pytest.mark.parametrize("name", ["aborts", "hangs"])
def test_deadly(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that kills its process, or hangs, is called in a process of its own, and exits 1."""
    monkeypatch.setattr(repro, "PATIENCE", 12.0)
    subject = DtildeSubject(Implementation.of(name, kernels(folder)[name]), "float32")
    target = str(folder / f"kernel.py:{name}")
    made = repro.deadly_script(law_named("values"), subject, {"gates": GATES}, target, folder, "died")
    assert made
    assert repro.exit_code(made) == 1
    assert repro.exit_code(made, "kernel.py:right") == 0


@pytest.mark.parametrize("name", ["raises", "leaves", "returns_none"])
def test_no_result(name: str, folder: Path) -> None:
    """A kernel that raises, leaves with exit code 0, or returns no tensor exits 1."""
    subject = DtildeSubject(Implementation.of(name, kernels(folder)[name]), "float32")
    made = repro.script(law_named("values"), subject, {"gates": GATES}, f"kernel.py:{name}", folder)
    assert made
    assert repro.exit_code(made) == 1
    assert repro.exit_code(made, "kernel.py:right") == 0


def test_gate_layout_and_no_target(folder: Path) -> None:
    """Gates are given in the axes of the contract; without a target one is asked for."""
    wrong = implementation(gate_layout="B S NH")(kernels(folder)["swapped_heads"])
    subject = DtildeSubject(Implementation.of("wrong", wrong), "float32")
    made = repro.script(law_named("values"), subject, {"gates": GATES}, None, folder)
    assert made
    assert "python repro.py TARGET\n" in made.text
    assert repro.exit_code(made, "kernel.py:swapped_heads") == 1
    assert repro.exit_code(made, "kernel.py:right_heads") == 0


def test_a_script_tells_of_every_event() -> None:
    """The recorder of scripts writes down every event that a recorder is told of."""
    assert {name for name in vars(Recorder) if name[0] != "_"} <= set(vars(ScriptRecorder))


def test_what_holds_has_no_script() -> None:
    """A law that holds is told by no script."""
    subject = DtildeSubject(
        Implementation.of("right", ON_CPU["tail_gates_dropped"].implementation), "float32"
    )
    assert repro.script(law_named("values"), subject, {"gates": GATES}, None, ROOT) is None


def test_the_transpose_of_a_result_has_its_name() -> None:
    """A result in the layout BSHD, which laws see transposed, is named as the call returned it."""
    script, result = Transcript(), torch.zeros(1, 4, 2, 3)
    script.returned("o", result)
    assert script.name(result.transpose(1, 2), "") == "o"
    assert script.lines == []


VALUES = (
    Ramp(0.1, 0.1, 0.3),
    Constant(-0.0),
    Constant(float("nan")),
    Constant(float("-inf")),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "float16"])
def test_a_tensor_is_written_to_the_bit(dtype: str) -> None:
    """What is written defines the same values, strides and surroundings, in every layout."""
    for background, layout, poison in product(VALUES, COTANGENT_LAYOUTS, (float("nan"), 3.0)):
        gates = Gates(dtype, (2, 3, 4))
        tensor = lay_out(Cotangent(background, masked=7.0).build(gates), layout, poison)
        names: dict[str, Any] = {**vars(runtime), "nan": float("nan"), "inf": float("inf")}
        exec("\n".join(written("x", tensor, refuse)), names)
        again = names["x"]
        assert (again.shape, again.stride(), again.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
        for ours, theirs in ((again, tensor), (memory_of(again), memory_of(tensor))):
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.equal(ours.nan_to_num(0.0).signbit(), theirs.nan_to_num(0.0).signbit())
            assert torch.equal(ours.nan_to_num(0.0), theirs.nan_to_num(0.0))


def refuse(tensor: Tensor) -> str:
    raise AssertionError("small enough for a literal")


def test_an_axis_of_one_keeps_its_stride() -> None:
    """A transpose of one head counts as contiguous, and kernels step by its stride: so does the script."""
    tensor = torch.arange(8.0).view(2, 4, 1, 1).transpose(1, 2)
    assert tensor.is_contiguous()
    names = dict(vars(runtime)) | {"torch": torch, "nan": float("nan")}
    exec("\n".join(written("x", tensor, lambda tensor: "")), names)
    assert torch.equal(names["x"], tensor)
    assert names["x"].stride() == tensor.stride()

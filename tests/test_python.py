"""dmat.check, dmat.grade and dmat.replay in this process: the pages of the commands, and no traces."""

from __future__ import annotations

import base64
import dataclasses
import faulthandler
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

import dmat
import dmat.testing
from dmat.testing.cli import main
from dmat.testing.contract import Contract, FusedContract, rows
from dmat.testing.errors import CannotRun
from dmat.testing.kernel.given import given
from dmat.testing.kernel.load import load
from dmat.testing.python import check as module
from dmat.testing.python.results import Verdict
from dmat.testing.record import Report

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
KERNELS = """
import os
import dmat
import dmat.testing

def off_by_one(i, f):
    return dmat.dtilde(i, f) + 1

def dies(i, f):
    os.abort()

def off_by_half(q, k, v, x):
    return 1.5 * v

declared = dmat.testing.fused(lambda q, k, v, x: v, reads="linear")
imported = dmat.testing.fused(os.path.join, reads="linear")
"""


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of KERNELS, whose file lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("kernels.py").write_text(KERNELS)
    yield sys.modules[load("kernels.py:off_by_one").function.__module__]
    sys.modules.pop("kernels", None)


def wrong(i: Tensor, f: Tensor) -> Tensor:
    """A kernel that is wrong everywhere."""
    return dmat.dtilde(i, f) + 1


def right(i: Tensor, f: Tensor) -> Tensor:
    """A right kernel without a contract."""
    return dmat.dtilde(i, f)


def first(fn: Callable[..., Any], **more: Any) -> Verdict:
    """Check up to the first broken law, and keep nothing."""
    return dmat.check(fn, **{"first": True, "seed": 0, "counterexamples": None, "dtypes": "float32"} | more)


# The pages


def test_the_page_is_that_of_the_command(kernels: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """str(verdict) is what `dmat check` prints of the same kernel with the same seed."""
    arguments = ["check", "--first", "--seed", "0", "--dtype", "float32", "--counterexamples", ""]
    assert main([*arguments, "kernels.py:off_by_one"]) == 1
    verdict = first(kernels.off_by_one)
    assert f"{verdict}\n" == capsys.readouterr().out
    assert not verdict
    assert verdict.broken
    assert [law.law for law in verdict.laws if law.status == "failed"] == [verdict.causes[0].law]


def test_the_page_of_a_replay(kernels: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """str(replay) is what `dmat replay` prints; another kernel may have fixed the case."""
    folder = first(kernels.off_by_one, counterexamples="here").causes[0].folder
    assert folder is not None
    assert main(["replay", folder, "--impl", "kernels.py:off_by_one"]) == 1
    again = dmat.replay(folder, kernels.off_by_one)
    assert (f"{again}\n", again.broken, again.fixed) == (capsys.readouterr().out, True, False)
    assert dmat.replay(folder, dmat.dtilde).fixed


def test_the_page_of_a_grade(kernels: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """str(grades) is what `dmat grade` prints."""
    assert main(["grade", "--dtype", "float32", "--examples", "2", "kernels.py:off_by_one"]) == 0
    grades = dmat.grade(kernels.off_by_one, dtypes=["float32"], examples=2)
    assert str(grades) == capsys.readouterr().out.rstrip("\n")
    assert grades.complete
    assert [grade.dtype for grade in grades.grades] == ["float32"]


def test_a_notebook_sees_the_picture(tmp_path: Path) -> None:
    """The HTML of a verdict has the page, with no markup of the kernel's own, and the kept picture."""
    verdict = first(lambda i, f: wrong(i, f), counterexamples=tmp_path)
    [folder] = tmp_path.iterdir()
    picture = base64.b64encode((folder / "picture.png").read_bytes()).decode()
    shown = verdict._repr_html_()
    assert "&lt;lambda&gt;" in shown
    assert f'src="data:image/png;base64,{picture}"' in shown
    assert "<img" not in first(wrong)._repr_html_()


def test_results_are_frozen() -> None:
    """Nobody changes a verdict."""
    verdict = Verdict(Report.of("x:y", {}, []), "page")
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.page = "SOUND"  # type: ignore[misc]


def test_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of README.md from Python run as they are printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    for section in ("## From Python", "## In your own test suite"):
        code = README.split(f"{section}\n")[1].split("```python\n")[1].split("```")[0]
        names: dict[str, Any] = {}
        exec(code, names)
        assert "verdict" in names or callable(names["test_dtilde"])
    for name in ("wrong_gradient", "masked_cumsum"):
        del sys.modules[name]


# What is checked


def test_promises() -> None:
    """Promises in the call are those of the decorators, and leave the function as it is."""
    assert first(wrong, error_scope="prefix").report.contract == {"error_scope": "prefix"}
    assert not hasattr(wrong, "__dmat_contract__")
    verdict = first(lambda q, k, v, x: 1.5 * v, reads="linear", K=16)
    assert verdict.broken
    assert verdict.report.contract == {"reads": "linear", "K": 16}


def test_promises_in_two_places() -> None:
    """A function with a contract of its own takes no promises, not even the same ones."""
    declared = dmat.testing.implementation(error_scope="prefix")(lambda i, f: wrong(i, f))
    for kernel in (declared, dmat.dtilde, dmat.testing.fused(lambda q, k, v, x: v, K=16)):
        with pytest.raises(TypeError, match="has a contract of its own, and the call states error_scope"):
            dmat.check(kernel, error_scope="prefix")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"scope": "prefix"}, TypeError, "'scope' is no field of a contract"),
        ({"reads": "linear", "scope": "prefix"}, TypeError, "'scope' is no field of fused"),
        ({"error_scope": "all"}, ValueError, "error_scope is 'all'"),
        ({"dtypes": ["int8"]}, CannotRun, "dtype is 'int8'"),
        ({"seconds": 0}, ValueError, "seconds is 0; expected a positive number"),
        ({"seconds": "3"}, ValueError, "seconds is '3'; expected a positive number"),
        ({"examples": -1}, ValueError, "examples is -1; expected a positive integer"),
        ({"examples": 2.5}, ValueError, "examples is 2.5; expected a positive integer"),
        ({"examples": True}, ValueError, "examples is True; expected a positive integer"),
        ({"seed": -1}, ValueError, "seed is -1; expected an integer of 0 or more"),
        ({"seed": "x"}, ValueError, "seed is 'x'; expected an integer of 0 or more"),
        ({"first": "no"}, ValueError, "first is 'no'; expected True or False"),
        ({"isolated": 1}, ValueError, "isolated is 1; expected True or False"),
        ({"counterexamples": 5}, TypeError, "counterexamples is 5; expected the path of a folder, or None"),
    ],
)
def test_a_wrong_argument(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """An error names the argument and its value."""
    with pytest.raises(error, match=text):
        dmat.check(wrong, **arguments)


@pytest.mark.parametrize("path", [None, wrong])
def test_a_wrong_path(path: Any) -> None:
    """An error names the path of a replay; one that was given in the place of the kernel too."""
    with pytest.raises(TypeError, match=r"path is .*; expected the path of a case, or of a folder"):
        dmat.replay(path, wrong)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"examples": -3}, "examples is -3; expected a positive integer"),
        ({"profile": 5}, "profile is 5; expected Hypothesis' settings, or the name of a profile"),
        ({"profile": "none such"}, "profile is 'none such'; expected the name of a registered profile"),
    ],
)
def test_a_wrong_argument_of_laws(arguments: dict[str, Any], text: str) -> None:
    """It is named where the test is made, not in each law."""
    with pytest.raises((TypeError, ValueError), match=text):
        dmat.testing.laws(wrong, **arguments)


def test_no_promise_is_shadowed() -> None:
    """No argument of the functions has the name of a promise, but for dtypes and devices, which narrow."""
    promises = {*rows(Contract), *rows(FusedContract)}
    for function in (dmat.check, dmat.grade, dmat.replay, dmat.testing.laws):
        arguments = set(function.__annotations__) - {"return", "promises"}
        assert arguments & promises <= {"dtypes", "devices"}


def test_a_time_that_is_too_short() -> None:
    """A kernel that was tried for too short a time is neither sound nor broken."""
    began = time.monotonic()
    verdict = dmat.check(right, seconds=1.5, dtypes=["float32"], counterexamples=None)
    assert time.monotonic() - began < 30
    assert (verdict.sound, verdict.broken) == (False, False)
    assert "checks not reached" in str(verdict)


def test_as_many_cases() -> None:
    """Examples count random cases, and a law that is reached in time has one at least."""
    few, more = (dmat.check(right, examples=n, seconds=n * 200, dtypes="float32", seed=0) for n in (1, 3))
    assert few.sound
    assert more.sound
    for law, other in zip(few.laws, more.laws, strict=True):
        assert law.examples == other.examples == 0 or law.examples + 2 >= other.examples >= law.examples
    assert sum(law.examples for law in few.laws) < sum(law.examples for law in more.laws)


@pytest.mark.parametrize(
    ("function", "name", "why"),
    [
        (dmat.dtilde, "dmat.operator:dtilde", ""),
        (wrong, "tests.test_python:wrong", ""),
        (lambda i, f: i, "tests.test_python:<lambda>", "no module has <lambda> under a name of its own"),
    ],
)
def test_names(function: Callable[..., Any], name: str, why: str) -> None:
    """A function is named as the command would name it, where that leads to it."""
    kernel = given(function, {})
    assert (kernel.implementation.name, kernel.nowhere) == (name, why)


def test_names_of_a_file(kernels: Any) -> None:
    """A function of a file is named by file and name; so is a declared one, whatever it was made of."""
    for name in ("off_by_one", "declared", "imported"):
        kernel = given(getattr(kernels, name), {})
        assert kernel.implementation.name == f"kernels.py:{name}"
        assert kernel.by_name


def test_a_function_of_no_file(tmp_path: Path) -> None:
    """A closure leaves a folder without repro.py; the page says why, and how to replay it."""
    verdict = first(lambda i, f: wrong(i, f), counterexamples=tmp_path, error_scope="prefix")
    [folder] = tmp_path.iterdir()
    assert {file.name for file in folder.iterdir()} == {"case.json", "report.md", "picture.png"}
    assert "there is no repro.py: no module has test_a_function_of_no_file.<locals>.<lambda>" in str(verdict)
    assert f"replay: dmat.replay('{folder}', kernel, error_scope='prefix')" in str(verdict)
    assert dmat.replay(folder, lambda i, f: wrong(i, f), error_scope="prefix").broken
    assert dmat.replay(folder, right).fixed


# The process


def read() -> dict[str, Any]:
    """Return the state of this process."""
    state = np.random.get_state()
    return {
        "threads": torch.get_num_threads(),
        "random": random.getstate(),
        "numpy": (state[1].tolist(), state[2]),  # type: ignore[index]
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "grad": torch.is_grad_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "empty": torch.empty,
        "new_empty": torch.Tensor.new_empty,
        "SIGALRM": signal.getsignal(signal.SIGALRM),
        "profile": settings.get_current_profile_name(),
        "path": list(sys.path),
    }


@pytest.fixture
def unlike() -> Iterator[dict[str, Any]]:
    """Let this process be unlike a new one, and return its state."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    with torch.no_grad():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        yield read()
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")


class Restless:
    """A kernel that changes all that it can, and notes what it was called in."""

    def __init__(self, error: BaseException | None) -> None:
        """Raise this error in the end, if it is one."""
        self.error, self.found = error, dict[str, Any]()

    def __call__(self, i: Tensor, f: Tensor) -> Tensor:
        """Return a wrong D~."""
        self.found = self.found or read()
        result = wrong(i, f)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float16)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        random.random()
        np.random.random()
        torch.rand(1)
        torch.empty, torch.Tensor.new_empty = (lambda *shape: None,) * 2  # type: ignore[assignment,method-assign]
        if self.error is not None:
            raise self.error
        return result


@pytest.mark.parametrize(
    "error", [None, KeyboardInterrupt(), ValueError("no")], ids=["none", "kill", "raise"]
)
def test_the_process_is_as_before(unlike: dict[str, Any], error: BaseException | None) -> None:
    """A check leaves threads, random numbers, flags, modes and torch.empty as they were, whatever ends it."""
    kernel = Restless(error)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            first(kernel)
    else:
        assert not first(kernel).sound
    after = read()
    assert {name for name in unlike if unlike[name] != after[name]} == set()


def test_what_a_kernel_is_called_in(unlike: dict[str, Any]) -> None:
    """A kernel is called as in a new process: a verdict does not depend on what was set before."""
    kernel = Restless(None)
    first(kernel)
    new = {"threads": 1, "dtype": torch.float32, "deterministic": False, "grad": True, "precision": "highest"}
    assert {name: kernel.found[name] for name in new} == new


def test_nothing_may_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process no watchdog ends it, should a kernel hang."""
    called = list[object]()
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *a, **more: called.append(a))
    first(wrong)
    assert called == []


def test_torch_comes_late() -> None:
    """`import dmat` and `import dmat.testing` load neither torch nor Hypothesis."""
    code = "import sys, dmat, dmat.testing; print(*({'torch', 'hypothesis', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# In processes of their own


def test_isolated(kernels: Any) -> None:
    """A kernel that ends its process is a verdict; its case is then tried in another process alone."""
    verdict = first(kernels.dies, isolated=True, counterexamples="kept")
    assert "The process dies" in str(verdict) or "the process died" in str(verdict)
    folder = verdict.causes[0].folder
    assert folder is not None
    assert "COULD NOT RUN" in str(dmat.replay(folder, kernels.dies))
    assert dmat.replay(folder, kernels.dies, isolated=True).broken


def test_isolated_with_promises(kernels: Any) -> None:
    """The processes get the promises of the call."""
    verdict = first(kernels.off_by_half, isolated=True, reads="linear", K=16)
    assert verdict.broken
    assert verdict.report.contract == {"reads": "linear", "K": 16}


@pytest.mark.parametrize(
    ("function", "promises", "text"),
    [
        (
            lambda i, f: i,
            {},
            "imports tests.test_python:<lambda> in other processes, but no module has <lambda>",
        ),
        (wrong, {"reads": "linear", "zeros_at": lambda: 0}, "is no field"),
    ],
)
def test_what_cannot_be_isolated(function: Callable[..., Any], promises: dict[str, Any], text: str) -> None:
    """A function that no other process can import is refused, with the reason."""
    with pytest.raises(TypeError, match=text):
        dmat.check(function, isolated=True, **promises)


def test_a_promise_that_cannot_be_sent() -> None:
    """A promise that is a closure is refused, with its name."""
    with pytest.raises(TypeError, match=r"zero_length=<function .* cannot be pickled"):
        module._require_pickled({"zero_length": lambda: 0})

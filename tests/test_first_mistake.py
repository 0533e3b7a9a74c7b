"""A TARGET that cannot be called, cannot be found, or cannot be read: one line, exit 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import dmat.testing

SCHEMAS = Path(dmat.testing.__file__).parent
KERNELS = """
import dmat
from dmat.testing import fused


def one_gate(igate_preact):
    return igate_preact


class Kernel:
    def __call__(self, igate_preact, fgate_preact):
        return dmat.dtilde(igate_preact, fgate_preact)


class Layer:
    def __init__(self, B, NH):
        pass


def raises(igate_preact, fgate_preact):
    raise RuntimeError("no such device")


def float32_alone(igate_preact, fgate_preact):
    if str(igate_preact.dtype) != "torch.float32":
        raise RuntimeError("float32 only")
    return dmat.dtilde(igate_preact, fgate_preact)


def linear(q, k, v, g):
    return v


def K_of_64(q, k, v, g):
    raise ValueError(f"K is {q.shape[-1]}; expected 64")


def returns_a_dict(q, k, v, g):
    return {"o": v}


def other_layout(q, k, v, g):
    return v.transpose(1, 2)[:, :, :0]


contract = dict(reads="linear", gate="log", K=16, V=16)
two_inputs = fused(lambda q, k: q, **contract)
other_K = fused(K_of_64, **contract)
a_dict = fused(returns_a_dict, **contract)
other_axes = fused(other_layout, **contract)
"""

UNCALLABLE = {  # what the line has of each
    "one_gate": ("raised TypeError: one_gate() takes 1 positional argument", "zeros (1, 1, 1, 1), float32"),
    "Kernel": ("raised TypeError: Kernel() takes no arguments", "a class was given: pass an instance"),
    "Layer": ("gives a Layer", "a class was given: pass an instance or a function"),
    "raises": ("raised RuntimeError: no such device", "(igate_preact, fgate_preact) -> D~ (B, NH, S, S)"),
    "two_inputs": ("raised TypeError: ", "q (1, 1, 1, 16)"),
    "other_K": ("raised ValueError: K is 16; expected 64", "float32 on cpu"),
    "a_dict": ("gives a dict", "state K, V, lengths, dtypes, layout"),
    "other_axes": ("gives a torch.float32 tensor", "expected a torch.float32 tensor"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with these kernels and a file that is no Python."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "broken.py").write_text("def dtilde(:\n")
    return tmp_path


def dmat_in(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run dmat in a folder; return its exit code and all that it printed."""
    command = [sys.executable, "-m", "dmat.testing.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if line]


@pytest.mark.parametrize("kernel", UNCALLABLE)
def test_check_says_it_in_a_line(kernel: str, folder: Path) -> None:
    """`dmat check --first` names the target, the call, what it raised, and what to do."""
    code, lines = dmat_in(folder, "check", "--first", f"kernels.py:{kernel}", "--json", "r.json")
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith(f"COULD NOT BE CHECKED: kernels.py:{kernel} cannot be called: ")
    for part in UNCALLABLE[kernel]:
        assert part in lines[0]
    report = json.loads((folder / "r.json").read_text())
    jsonschema.validate(report, json.loads((SCHEMAS / "check" / "report.schema.json").read_text()))
    assert report["verdict"] == "error"
    reasons = {law["reason"] for law in report["laws"]}
    assert any(reason in lines[0] for reason in reasons if reason.startswith("cannot be called: "))


@pytest.mark.parametrize("kernel", ["one_gate", "two_inputs"])
def test_so_do_the_other_commands(kernel: str, folder: Path) -> None:
    """`dmat check` without --first, `grade` and `fuzz` each print one line, and exit with 2."""
    target = f"kernels.py:{kernel}"
    for command, verdict in (
        (("check", target, "-n", "2"), "COULD NOT BE CHECKED"),
        (("grade", target, "--json", "grade.json"), "COULD NOT BE GRADED"),
        (("fuzz", target, "--minutes", "1", "--out", "night", "-n", "2"), "DID NOT FUZZ"),
    ):
        code, lines = dmat_in(folder, *command)
        lines = [line for line in lines if " left, " not in line]  # the progress of fuzz
        assert (code, len(lines)) == (2, 1), lines
        assert lines[0].startswith(f"{verdict}: {target} cannot be called: ")
        assert UNCALLABLE[kernel][0] in lines[0]
    grades = json.loads((folder / "grade.json").read_text())
    jsonschema.validate(grades, json.loads((SCHEMAS / "grade" / "grade.schema.json").read_text()))


def test_the_other_dtypes_are_judged(folder: Path) -> None:
    """Of a kernel that takes float32 alone, one line names the three dtypes; float32 is judged; exit 2."""
    code, lines = dmat_in(folder, "check", "--first", "kernels.py:float32_alone")
    told = [line for line in lines if "cannot be called" in line]
    assert code == 2
    assert len(told) == 1, lines
    assert "bfloat16, float64, float16 on cpu" in told[0]
    assert any(line.split()[0] == "forget_gradient" and "ok" in line for line in lines)
    code, lines = dmat_in(folder, "grade", "kernels.py:float32_alone", "--examples", "1")
    told = [line for line in lines if "cannot be called" in line]
    assert (code, len(told)) == (2, 1), lines
    assert "bfloat16, float64, float16 on cpu" in told[0]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pytest_fails_once(workers: str, folder: Path) -> None:
    """Under plain pytest one test fails, and the other laws are skipped."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", workers, "--pyargs", "dmat.properties"]
    command += ["--dmat-impl", "kernels.py:one_gate", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "1 failed, " in done.stdout.splitlines()[-1], done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]
    assert "kernels.py:one_gate cannot be called: " in done.stdout


def test_replay_could_not_run(folder: Path) -> None:
    """A case is neither broken nor fixed by a target that cannot be called."""
    (folder / "wrong.py").write_text("import dmat\ndef f(i, g):\n    return dmat.dtilde(i, g) + 1\n")
    assert dmat_in(folder, "check", "--first", "wrong.py:f")[0] == 1
    code, lines = dmat_in(folder, "replay", "counterexamples", "--impl", "kernels.py:one_gate")
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("COULD NOT RUN")
    assert "kernels.py:one_gate cannot be called: " in lines[0]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nothing.py:f", "there is no file nothing.py"),
        ("kernels.py:one_gates", "kernels.py has no 'one_gates'; it has one_gate"),
        ("broken.py:dtilde", "importing it raised SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_what_cannot_be_loaded(target: str, why: str, folder: Path) -> None:
    """A file or name that is not there, and a file that is no Python, are one line and exit 2."""
    for command in ("check", "grade"):
        code, lines = dmat_in(folder, command, target)
        assert (code, len(lines)) == (2, 1), lines
        assert why in lines[0]

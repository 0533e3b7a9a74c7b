"""The command as a new user runs it: in their own folder, on a right and a wrong kernel in a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

import dmat.testing

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((Path(dmat.testing.__file__).parent / "check" / "report.schema.json").read_text())

RIGHT = (ROOT / "examples" / "masked_cumsum.py").read_text()
KERNELS = (
    RIGHT
    + """

from dmat.testing import implementation

quick = implementation(dtypes=("float32",), max_seq=3, special_values=())

@quick
def right(i, f):
    return dtilde(i, f)

@quick
def off_by_a_little(i, f):
    return dtilde(i, f) * (1 + 2**-10)

@implementation(dtypes=("float32",), max_seq=2, special_values=(), differentiable=False)
def dies(i, f):
    if i.shape[2] == 2 and (f == -105).any():
        import os
        os._exit(7)
    return dtilde(i, f)

@quick
def always_raises(i, f):
    raise RuntimeError("no such device")

@quick
def returns_nothing(i, f):
    pass

@quick
def sound(i, f):
    return dtilde(i, f)

def bare(i, f):
    return dtilde(i, f) * 2

nothing = 3
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder with a file of kernels in it."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    return tmp_path


def dmat_check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dmat check` there, as the console script does."""
    command = [sys.executable, "-m", "dmat.testing.cli", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_a_right_kernel(folder: Path) -> None:
    """Exit 0, SOUND, a report of one object that follows the schema, and nothing else left behind."""
    done = dmat_check(folder, "kernels.py:right", "--json", "report.json", "-n", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("SOUND: kernels.py:right keeps all ")
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert (report["implementation"], report["verdict"]) == ("kernels.py:right", "sound")
    assert {law["status"] for law in report["laws"] if law["promised"]} == {"passed"}
    assert {p.name for p in folder.iterdir()} <= {"kernels.py", "report.json", "__pycache__"}


def test_a_wrong_kernel(folder: Path) -> None:
    """Exit 1, BROKEN, and the law, the place, both values, the error, what was allowed and the case."""
    done = dmat_check(folder, "kernels.py:off_by_a_little", "--first", "--json", "report.json")
    assert done.returncode == 1, done.stdout + done.stderr
    for part in ("does not hold for kernels.py:off_by_a_little, float32 on cpu", "[b=0, h=0, t="):
        assert part in done.stdout
    for part in (
        "computed ",
        "exact ",
        "error ",
        " allowed",
        "from dmat.strategies import *",
        "gates = Gates(",
    ):
        assert part in done.stdout
    assert done.stdout.startswith("BROKEN: kernels.py:off_by_a_little breaks ")
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["verdict"] == "broken"


def test_a_bare_kernel_first(folder: Path) -> None:
    """With --first nobody looks for a wider contract, and the last line says how to have that done."""
    done = dmat_check(folder, "kernels.py:bare", "--first", "--json", "report.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("Without --first, dmat check looks for a wider contract")
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["stands_under"] is None


def test_several(folder: Path) -> None:
    """Several TARGETs make a list of reports, and one broken one makes exit 1."""
    done = dmat_check(folder, "kernels.py:sound", "kernels.py:off_by_a_little", "--first", "--json", "r.json")
    assert done.returncode == 1, done.stdout + done.stderr
    reports = json.loads((folder / "r.json").read_text())
    jsonschema.validate(reports, SCHEMA)
    assert [r["implementation"] for r in reports] == ["kernels.py:sound", "kernels.py:off_by_a_little"]
    assert [r["verdict"] for r in reports] == ["error", "broken"]  # the run ended before all of the first
    assert done.stdout.startswith("COULD NOT BE CHECKED: kernels.py:sound: ")  # and :sound: is no emoji


def test_beside_folders_of_the_same_names(folder: Path) -> None:
    """The user's strategies/, properties/, conftest.py and pytest.ini change no verdict."""
    for name in ("strategies", "properties"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
        (folder / name / "test_law_values.py").write_text("def test_law_values(): pass")
    (folder / "conftest.py").write_text("raise RuntimeError('not to be loaded')")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -k nothing --no-such-option\npython_files = x.py\n"
    )
    done = dmat_check(folder, "kernels.py:off_by_a_little", "--first")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("BROKEN: ")


def test_a_kernel_that_kills_its_process(folder: Path) -> None:
    """Exit 1: the laws in which the process died are broken, and every other still reports."""
    done = dmat_check(folder, "kernels.py:dies", "--json", "r.json", "-n", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    laws = json.loads((folder / "r.json").read_text())["laws"]
    died = [law for law in laws if law["status"] == "failed"]
    assert died
    for law in died:
        assert "\nthe process died while it called kernels.py:dies, float32 on cpu:\n" in law["reason"]
        assert law["case"] in law["reason"].replace("\n  ", "\n")
        assert (folder / law["folder"] / "case.json").is_file()
    assert {law["status"] for law in laws if law["promised"]} == {"passed", "failed"}


def test_a_kernel_that_kills_its_process_first(folder: Path) -> None:
    """With --first the first death ends the run, and is the verdict."""
    done = dmat_check(folder, "kernels.py:dies", "--first")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("BROKEN: kernels.py:dies breaks ")


def test_a_kernel_that_returns_nothing(folder: Path) -> None:
    """Exit 1: it was called, and what it returned is no D~."""
    done = dmat_check(folder, "kernels.py:returns_nothing", "--first")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "computed  a NoneType" in done.stdout


def test_a_kernel_that_cannot_be_called(folder: Path) -> None:
    """Exit 2: nothing is known of a kernel whose plainest call raises, and the reason is shown."""
    done = dmat_check(folder, "kernels.py:always_raises", "-n", "1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "raised RuntimeError: no such device" in done.stdout
    assert done.stdout.startswith("COULD NOT BE CHECKED: kernels.py:always_raises")


def test_a_file_that_ends_its_process(folder: Path) -> None:
    """Exit 2 with one line, where importing the TARGET kills every process that does so."""
    (folder / "aborts.py").write_text("import os; os.abort()")
    done = dmat_check(folder, "aborts.py:f")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr == "dmat: the process died while the targets were imported\n"


COULD_NOT = {
    "no colon": (["kernels.py"], "TARGET is 'kernels.py'; expected package.module:function"),
    "no file": (["none.py:f"], "TARGET is 'none.py:f'; there is no file none.py"),
    "no module": (["no_module:f"], "importing it raised ModuleNotFoundError"),
    "no function": (["kernels.py:left"], "kernels.py has no 'left'"),
    "not callable": (["kernels.py:nothing"], "that is a int, not callable"),
    "raises": (["raises.py:f"], "importing it raised ZeroDivisionError"),
    "exits": (["exits.py:f"], "importing it raised SystemExit"),
    "bad option": (["kernels.py:right", "--frist"], "unrecognized arguments: --frist"),
    "bad number": (["kernels.py:right", "-n", "many"], "'many' is no positive number"),
    "bad dtype": (["kernels.py:right", "--dtype", "int8"], "dtype is 'int8'; expected one of"),
    "other dtype": (["kernels.py:right", "--dtype", "float64"], "kernels.py:right promises float32"),
    "bad device": (["kernels.py:right", "--device", "tpu"], "device is 'tpu'; expected cpu or cuda"),
    "no CUDA": (["kernels.py:right", "--device", "cuda"], "this machine has no CUDA device"),
    "no folder": (["kernels.py:right", "--json", "no/r.json"], "there is no folder to write it in"),
}


@pytest.mark.parametrize("case", COULD_NOT)
def test_could_not_be_checked(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 with one line that says why, and no traceback, of either command."""
    from dmat.testing.cli import main

    if case == "no CUDA" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    arguments, why = COULD_NOT[case]
    (folder / "raises.py").write_text("1 / 0")
    (folder / "exits.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for command in ("check", "grade"):
        if command == "grade" and ("-n" in arguments or "--frist" in arguments):
            continue
        one = ["-n", "1"] if command == "check" and "-n" not in arguments else []
        assert main([command, *arguments, *one]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("dmat: ")
        assert why in lines[0]

"""`--interpret`: the repairs (interpret_laws.py), the commands, and one line where it cannot be done."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import dmat.testing
from dmat.testing.cli import main
from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import (
    ASKED,
    EXAMPLES,
    LADDER,
    TRITON,
    UNSEEN,
    asking,
    config_index,
    in_time,
    require_triton,
    spread,
)

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((Path(dmat.testing.__file__).parent / "check" / "report.schema.json").read_text())
KERNELS = "tests/interpreted/kernels.py"
HERE = importlib.util.find_spec("triton") is not None and metadata.version("triton") == TRITON
needs_triton = pytest.mark.skipif(not HERE, reason=f"needs triton {TRITON}: pip install 'dmat[interpret]'")


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: triton is either interpreted or not."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def dmat_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dmat, as the console script does."""
    return ran("-m", "dmat.testing.cli", *arguments)


@needs_triton
def test_the_repairs() -> None:
    """Every law of interpret_laws.py passes."""
    run = ran("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/interpret_laws.py",
              "-o", "addopts=--strict-markers -rs")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


BREAKING = {
    "launch": "the address sanitizer",
    "ranges": "the integers of loops",
    "autotuner": "the autotuner",
    "extrema": "extrema beside nan",
    "bfloat16": "bfloat16 arithmetic",
    "tf32": "tf32 dots",
    "sanitizer": "the address sanitizer",
}


@needs_triton
@pytest.mark.parametrize("repair", BREAKING)
def test_a_repair_that_does_not_work(repair: str) -> None:
    """Without any one of them the start ends in a line that names what is wrong."""
    code = f"""
import os, sys
from dmat.testing.interpret.install import install
from dmat.testing.errors import CannotRun
os.environ["TRITON_INTERPRET"] = "1"
from dmat.testing.interpret import {repair}
{repair}.patch = lambda: None
try:
    install()
except CannotRun as error:
    print(error)
"""
    run = ran("-c", code)
    assert len(run.stdout.splitlines()) == 1, run.stdout + run.stderr
    assert run.stdout.startswith(f"in this triton, {TRITON}, {BREAKING[repair]} cannot be mended")


@needs_triton
def test_triton_that_is_already_compiled() -> None:
    """Imported before, without TRITON_INTERPRET=1, its functions are compiled for good: a line says so."""
    code = "import triton; from dmat.testing.interpret.install import install; install()"
    run = ran("-c", code, TRITON_INTERPRET="0")
    assert run.stderr.splitlines()[-1].endswith(
        "triton was imported before its interpreter was chosen: set TRITON_INTERPRET=1"
    )


@pytest.mark.parametrize("found", [None, "3.9.0"])
def test_another_triton(
    found: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 with one line that says what to install."""

    def version(name: str) -> str:
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(CannotRun, match=r"pip install 'dmat\[interpret\]'"):
        require_triton()
    for command in (["check"], ["grade"]):
        assert main([*command, "--interpret", f"{KERNELS}:right"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("dmat: interpreting needs triton")
        assert error.count("\n") == 1


COULD_NOT = {
    "no target": (["check", "--interpret"], "--interpret needs a TARGET"),
    "cuda": (["check", "--interpret", "--device", "cuda", f"{KERNELS}:right"], "--device is 'cuda'"),
    "config alone": (["check", "--config", "1", f"{KERNELS}:right"], "--config is of --interpret"),
    "no number": (["grade", "--interpret", "--config", "x"], "'x' is no number of a config"),
}


@pytest.mark.parametrize("case", COULD_NOT)
def test_could_not(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 with one line that says why."""
    arguments, why = COULD_NOT[case]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@needs_triton
def test_what_is_asked_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is afterwards what it was."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.delenv(ASKED, raising=False)
    with asking(2):
        assert (config_index(), os.environ["TRITON_INTERPRET"]) == (2, "1")
    assert (config_index(), os.environ["TRITON_INTERPRET"]) == (None, "0")


def checked(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Check interpreted; return the run and the report, which follows its schema."""
    kept = "--counterexamples", str(folder / "kept")
    run = dmat_command("check", "--interpret", *arguments, *kept, "--json", str(folder / "r.json"), "-n", "1")
    report = json.loads((folder / "r.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return run, report


@needs_triton
def test_a_long_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, of many cases a few are taken, the first and the last among them; else all are."""
    monkeypatch.delenv(ASKED, raising=False)
    assert spread(range(100)) == list(range(100))
    monkeypatch.setenv(ASKED, "0")
    some = spread(range(100))
    assert len(set(some)) == len(some) == LADDER
    assert some[:2] == [0, 99]
    assert spread(range(5)) == [0, 4, 1, 3, 2]


def test_the_time_of_a_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, no case is begun after its seconds of CPU time; else time does not matter."""
    monkeypatch.delenv(ASKED, raising=False)
    assert in_time(0.0)()
    monkeypatch.setenv(ASKED, "0")
    assert not in_time(0.0)()
    assert in_time(1000.0)()


def test_a_right_kernel(tmp_path: Path) -> None:
    """SOUND on the CPU though it promises CUDA, few random cases, and a line of what was not seen."""
    run, report = checked(tmp_path, f"{KERNELS}:right", "--dtype", "bfloat16", "--config", "1")
    assert run.returncode == 0, run.stdout + run.stderr
    verdict, *_, caveat = run.stdout.splitlines()
    assert verdict.startswith(f"SOUND: {KERNELS}:right keeps all ")
    assert caveat == f"In Triton's interpreter (triton {TRITON}, autotune config 1): {UNSEEN}"
    assert report["interpreter"] == {"triton": TRITON, "config": 1}
    assert {law["device"] for law in report["laws"]} == {"cpu"}
    assert all(law["examples"] <= 100 + EXAMPLES for law in report["laws"])


@needs_triton
def test_a_kernel_that_reads_past_the_end(tmp_path: Path) -> None:
    """BROKEN at the first ragged length, in the same words each time; replay finds it again, and only so."""
    run, report = checked(tmp_path, "--first", f"{KERNELS}:reads_past_the_end", "--dtype", "float32")
    assert run.returncode == 1, run.stdout + run.stderr
    said = "load of 1 of 4 addresses outside of i (12 bytes), as far as 4 bytes past its end"
    assert said in run.stdout
    assert "raised OutOfBounds: kernel write_row, kernels.py:" in run.stdout
    assert " --interpret\n" in run.stdout
    assert report["verdict"] == "broken"
    (home,) = (tmp_path / "kept").iterdir()
    assert TRITON in (home / "case.json").read_text()
    assert ran(str(home / "repro.py")).returncode == 1
    assert ran(str(home / "repro.py"), f"{KERNELS}:right").returncode == 0
    replayed = dmat_command("replay", str(home), "--impl", f"{KERNELS}:reads_past_the_end", "--interpret")
    assert replayed.returncode == 1, replayed.stdout + replayed.stderr
    assert said in replayed.stdout
    assert replayed.stdout.endswith(f"{UNSEEN}\n")
    right = dmat_command("replay", str(home), "--impl", f"{KERNELS}:right", "--interpret")
    assert right.returncode == 0, right.stdout + right.stderr


@needs_triton
def test_a_kernel_that_rounds_its_terms(tmp_path: Path) -> None:
    """BROKEN in bfloat16, where that shows, and by its repro.py."""
    run, report = checked(tmp_path, "--first", f"{KERNELS}:sums_rounded_terms", "--dtype", "bfloat16")
    assert run.returncode == 1, run.stdout + run.stderr
    assert report["verdict"] == "broken"
    assert "as if log sigmoid(f), or a sum of it, was rounded to bfloat16 before i was added" in run.stdout
    (home,) = (tmp_path / "kept").iterdir()
    again = ran(str(home / "repro.py"))
    assert again.returncode == 1, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == "BROKEN"


@needs_triton
def test_grade(tmp_path: Path) -> None:
    """An accuracy class is found in the interpreter, and what was not seen is said."""
    file = tmp_path / "grade.json"
    told = ("grade", "--interpret", f"{KERNELS}:right", "--dtype", "float32", "--examples", "5")
    run = dmat_command(*told, "--json", str(file))
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(file.read_text())[0]["interpreter"] == {"triton": TRITON, "config": 0}
    assert "window, float32*" in run.stdout
    assert run.stdout.endswith(f"{UNSEEN}\n")


@needs_triton
def test_fuzz(tmp_path: Path) -> None:
    """New cases in the interpreter, what was not seen is said, and a run goes on as it was begun."""
    night = tmp_path / "night"
    command = ["fuzz", f"{KERNELS}:right", "--dtype", "float32", "-n", "1", "--out", str(night)]
    run = dmat_command(*command, "--minutes", "0.6", "--interpret")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith(f"{UNSEEN}\n")
    report = json.loads((night / "report.json").read_text())
    assert report["interpreter"] == {"triton": TRITON, "config": 0}
    again = dmat_command(*command, "--minutes", "1", "--resume")
    assert again.returncode == 2, again.stdout + again.stderr
    assert "the run in it goes on with --interpret --config 0" in again.stderr


@needs_triton
def test_pytest(tmp_path: Path) -> None:
    """--dmat-interpret, also in workers, and where a conftest.py imports triton first."""
    (tmp_path / "conftest.py").write_text("import triton\n")
    command = ["-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    command += ["--confcutdir", str(tmp_path), "--pyargs", "dmat.properties", "-k", "test_law_values"]
    command += ["--dmat-interpret", "--dmat-impl", f"{KERNELS}:reads_past_the_end", "--dmat-dtype", "float32"]
    command += ["--dmat-counterexamples", "", "--dmat-examples", "3", "-n", "1", str(tmp_path)]
    run = ran(*command)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "raised OutOfBounds" in run.stdout

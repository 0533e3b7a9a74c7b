"""`dmat fuzz` on the command line: what it finds, what survives, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

KERNELS = """
import os, time
import torch
from dmat.reference import masked_cumulative_sum
from dmat.testing import implementation

promised = implementation(dtypes=("float32",), differentiable=False, special_values=())

@promised
def right(i, f):
    return masked_cumulative_sum(i, f)

@promised
def unmasked(i, f):
    return masked_cumulative_sum(i, f).nan_to_num(neginf=-1e9)

@promised
def aborts(i, f):
    if i.shape[2] > 20:
        os.abort()
    return masked_cumulative_sum(i, f)

@promised
def hangs(i, f):
    while i.shape[2] > 20:
        time.sleep(0.1)
    return masked_cumulative_sum(i, f)

@promised
def raises(i, f):
    raise TypeError("two arguments are too many")
"""


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A file of kernels in a folder of its own."""
    (tmp_path / "kernels.py").write_text(KERNELS)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dmat.testing.cli", "fuzz", *arguments]


@cache
def starting() -> float:
    """Minutes that a process of a run takes to start on this machine, beside all else that it does now."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import dmat.testing.fuzzing.turn, dmat.testing.explain.picture.figure"],
        check=True,
    )
    return (time.monotonic() - began) / 60


def minutes(wanted: float) -> str:
    """Return so many minutes, or more where so few would be over before the first example."""
    return f"{max(wanted, 6 * starting()):.3f}"


def fuzz(folder: Path, *arguments: str, code: int, seconds: float = 120) -> tuple[dict[str, Any], str]:
    """Run the command in a folder; return its report, and all that it printed."""
    done = subprocess.run(
        command(*arguments, "--out", "night"), cwd=folder, capture_output=True, text=True, timeout=seconds
    )
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    report = folder / "night" / "report.json"
    return (json.loads(report.read_text()) if report.exists() else {}), printed


@contextmanager
def begun(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run that is under way: its log has turns in it."""
    log = folder / "night" / "log.jsonl"
    before = log.read_text().count('"ended"') if log.exists() else 0
    run = subprocess.Popen(
        command(*arguments, "--out", "night"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (
            log.exists() and log.read_text().count('"ended"') > before + 3
        ):
            assert run.poll() is None
            time.sleep(0.05)
        yield run
    finally:
        run.kill()
        run.communicate()


def implementations(report: dict[str, Any]) -> list[str]:
    return sorted(finding["implementation"].partition(":")[2] for finding in report["findings"])


def test_found_once_and_small(kernels: Path) -> None:
    """Of a right and a wrong kernel the wrong one is found, once, small, with all files; it replays."""
    report, printed = fuzz(
        kernels, "kernels.py:right", "kernels.py:unmasked", "--minutes", minutes(0.25), code=1
    )
    assert implementations(report) == ["unmasked"]
    (finding,) = report["findings"]
    assert "Gates('float32', (1, 1, 2)" in finding["case"]
    assert finding["also"]
    assert {"report.html", "junit.xml", "summary.md", "log.jsonl", "hypothesis", "counterexamples"} <= {
        file.name for file in (kernels / "night").iterdir()
    }
    home = kernels / "night" / finding["folder"]
    assert {"case.json", "repro.py", "report.md", "picture.png"} <= {file.name for file in home.iterdir()}
    assert "FOUND 1" in printed
    again = subprocess.run(
        [sys.executable, "-m", "dmat.testing.cli", *finding["replay"].split()[1:]],
        cwd=kernels,
        capture_output=True,
        text=True,
    )
    assert (again.returncode, "STILL BROKEN" in again.stdout) == (1, True), again.stdout + again.stderr
    assert not list((kernels / "night" / "unsettled").glob("*"))


def test_time_is_kept(kernels: Path) -> None:
    """A run of a right kernel tries every cell that it can, finds nothing, and ends in time."""
    given = minutes(0.3)
    began = time.monotonic()
    report, printed = fuzz(kernels, "kernels.py:right", "--minutes", given, code=0)
    assert 0 <= time.monotonic() - began - 60 * float(given) <= 10
    assert "NOTHING FOUND" in printed
    tried = {cell["law"] for cell in report["cells"] if cell["status"] == "held"}
    wanted = {cell["law"] for cell in report["cells"] if cell["status"] != "not run"}
    assert tried >= wanted - {"protected_pages"}  # a dear one, which is not begun in the last half minute


def test_deaths_and_hangs_are_findings(kernels: Path) -> None:
    """A kernel that kills its process and one that never returns are found, each once, by the case."""
    targets = ("kernels.py:aborts", "kernels.py:hangs")
    report, _ = fuzz(kernels, *targets, "--minutes", "0.6", "--time-limit", "2", code=1)
    assert implementations(report) == ["aborts", "hangs"]
    ended = {f["implementation"].partition(":")[2]: f["ended"] for f in report["findings"]}
    assert ended == {"aborts": "died", "hangs": "did not end"}
    assert all((kernels / "night" / f["folder"] / "case.json").is_file() for f in report["findings"])
    assert any("signal 6" in event["what"] for event in report["events"])


def test_a_lost_worker_a_killed_run_and_the_rest(kernels: Path) -> None:
    """Kill a worker, then the run: --resume knows what was found, and its clock goes on."""
    targets = ("kernels.py:right", "kernels.py:unmasked")
    with begun(kernels, *targets, "--minutes", "0.8", "-n", "2") as run:
        victims = workers(run.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        until, log = time.monotonic() + 40, kernels / "night" / "log.jsonl"
        while time.monotonic() < until and (
            '"noted"' not in log.read_text() or '"happened"' not in log.read_text()
        ):
            time.sleep(0.1)
        assert set(workers(run.pid)) != set(victims)
        left = workers(run.pid)
        run.kill()
        run.wait()
    before = [json.loads(line) for line in log.read_text().splitlines()]
    elapsed = before[-1]["elapsed"]
    found = [
        line["found"]["folder"] for line in before if line["type"] == "noted" and line["found"]["folder"]
    ]
    examples = sum(line["done"].get("examples", 0) for line in before if line["type"] == "ended")
    assert found
    assert not [pid for pid in left if alive(pid)]
    began = time.monotonic()
    report, _ = fuzz(kernels, "--resume", code=1)
    assert time.monotonic() - began < 48 - elapsed + 15
    assert report["sittings"] == 2
    assert 47 <= report["seconds"] <= 55
    assert report["examples"] > examples
    assert [f["folder"].partition("/")[2] for f in report["findings"]] == found[:1]
    assert any("a process died (signal 9)" in event["what"] for event in report["events"])


def test_what_was_not_yet_small_is_not_lost(kernels: Path) -> None:
    """A case that was found, but not yet made small when the run was killed, is settled on resuming."""
    with begun(kernels, "kernels.py:unmasked", "--minutes", minutes(0.5), "-n", "1") as run:
        until, ahead = time.monotonic() + 40, kernels / "night" / "unsettled"
        while time.monotonic() < until and not list(ahead.glob("*/case.json")):
            time.sleep(0.005)
        run.kill()
        run.wait()
    log = kernels / "night" / "log.jsonl"
    if '"noted"' in log.read_text():  # it was quicker: take the finding away again
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if '"noted"' not in line))
    left = list(ahead.glob("*/case.json"))
    assert left
    log.write_text(
        "".join(line for line in log.read_text().splitlines(keepends=True) if '"ended"' not in line)
    )
    report, _ = fuzz(kernels, "--resume", code=1)
    assert implementations(report) == ["unmasked"]
    assert report["findings"][0]["after_seconds"] < 60 * float(minutes(0.5))
    assert not list(ahead.glob("*"))


def test_interrupted_it_reports(kernels: Path) -> None:
    """Ctrl-C, and a job that is cancelled, end a run with its report and its verdict."""
    for number, how in enumerate((signal.SIGINT, signal.SIGTERM)):
        with begun(kernels, "kernels.py:right", "--minutes", "5", *(["--resume"] if number else [])) as run:
            run.send_signal(how)
            printed, _ = run.communicate(timeout=30)
        assert run.returncode == 0, printed
        assert "NOTHING FOUND" in printed
        assert json.loads((kernels / "night" / "report.json").read_text())["examples"] > 0


REFUSED: list[tuple[list[str], str]] = [
    (
        ["kernels.py:raises", "--minutes", "0.5"],
        "DID NOT FUZZ: kernels.py:raises cannot be called: ",
    ),
    (["kernels.py:none", "--minutes", "0.1"], "TARGET is 'kernels.py:none'"),
    (["kernels.py:right", "--minutes", "0.1", "--device", "cuda"], "device is 'cuda'; "),
    (["kernels.py:right", "--minutes", "0"], "'0' is no positive number of minutes"),
    (["kernels.py:right", "--resume"], "there is no run in it to resume"),
    (["kernels.py:right", "--corpus", "nowhere"], "the corpus is 'nowhere'; there is no such folder"),
]


@pytest.mark.parametrize(("arguments", "why"), REFUSED, ids=[" ".join(a[0:1] + a[-1:]) for a, _ in REFUSED])
def test_not_really_fuzzed_is_no_success(arguments: list[str], why: str, kernels: Path) -> None:
    """What tried nothing ends with 2, and a line that says why."""
    given = [minutes(0.5) if x == "0.5" else x for x in arguments]
    _, printed = fuzz(kernels, *given, code=2)
    assert why in printed


def workers(parent: int) -> list[int]:
    """Return the processes of a run that take turns."""
    told = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in told.splitlines() if "spawn_main" in line]


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""`dmat compare`: same bits, how far apart, who is nearer the truth, and when NEW is worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from dmat.testing.cli import main
from dmat.testing.compare import side
from dmat.testing.compare.command import UNPROMISED, Running, verdict
from dmat.testing.compare.joined import Pair, Total
from dmat.testing.compare.result import Compared
from dmat.testing.compare.side import JOB, Entry, Tried
from dmat.testing.schemas import schema

KERNELS = """
import os
import torch
from dmat.reference import masked_cumulative_sum
from dmat.testing import fused, implementation

promised = implementation(dtypes=("float32",), max_seq=3)

@promised
def right(i, f):
    return masked_cumulative_sum(i, f)

@promised
def off(i, f):
    return masked_cumulative_sum(i, f) * 1.5

@promised
def dies(i, f):
    if i.shape[2] == 3:
        os._exit(7)
    return masked_cumulative_sum(i, f)

@implementation(dtypes=("float64",))
def other_dtype(i, f):
    return masked_cumulative_sum(i, f)

def sum_of(q, k, v, g):
    sums = g.cumsum(-1)
    windows = sums[..., None] - sums[..., None, :]
    causal = torch.ones(g.shape[-1], g.shape[-1], dtype=torch.bool).tril()
    return (q @ k.mT * windows.masked_fill(~causal, -torch.inf).exp()) @ v

small = dict(dtypes=("float32",), max_seq=3, error_scope="prefix", factors="one", l_min=-1.0)
attention = fused(sum_of, **small)
scaled = fused(lambda q, k, v, g: sum_of(q, k, v, g) / 2, scale=0.5, **small)
"""


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both sides run in this process, which takes a tenth of the time."""

    def run(running: Running, call: list[str]) -> str:
        side.main(call[3], Path(call[4]))
        return ""

    monkeypatch.setattr(Running, "_run", run)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the file of the kernels, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kernels.py").write_text(KERNELS)
    return "kernels.py:"


def test_the_command(kernels: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A kernel is not worse than itself, in another Python too; JSON says the same."""
    options = ["--examples", "5", "--json", "c.json"]
    same = ["compare", kernels + "right", kernels + "right", "--old-python", sys.executable, *options]
    assert main(same) == 0
    shown = capfd.readouterr().out
    assert shown.startswith("NOT WORSE: all of NEW is within its contract, and nothing is worse than OLD")
    assert shown.count("same bits ") == 3
    report = json.loads(Path("c.json").read_text())
    jsonschema.validate(report, schema("compare"))
    assert [one["quantity"] for one in report["sites"][0]["quantities"]] == ["D~", "di", "df"]


@pytest.mark.usefixtures("in_process")
def test_a_wrong_kernel(kernels: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A wrong NEW is worse; the message names a case, JSON says how often it is over its bound."""
    options = ["--examples", "5", "--json", "c.json"]
    assert main(["compare", kernels + "right", kernels + "off", *options]) == 1
    shown = capfd.readouterr().out
    assert "  D~: over its bound in " in shown
    assert "    gates = Gates('float32'" in shown
    report = json.loads(Path("c.json").read_text())
    jsonschema.validate(report, schema("compare"))
    first = report["sites"][0]["quantities"][0]
    assert (first["old"]["over"], first["new"]["nearer"]) == (0, 0)
    assert first["old"]["nearer"] > 0


@pytest.mark.night
def test_one_that_dies(kernels: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A NEW that dies is worse, and the case is named; an OLD that dies cannot be compared with."""
    assert main(["compare", kernels + "right", kernels + "dies", "--examples", "5"]) == 1
    shown = capfd.readouterr().out
    assert "NEW: its process died, exit code 7, on the case" in shown
    assert "gates = Gates('float32', (1, 1, 3)" in shown
    assert main(["compare", kernels + "dies", kernels + "right", "--examples", "5"]) == 2
    assert capfd.readouterr().err == "dmat: OLD cannot be compared: its process died, exit code 7\n"


def test_one_that_does_not_end(tmp_path: Path) -> None:
    """A side that stays longer on a case than the time limit is ended."""
    (tmp_path / JOB).touch()
    running = Running("NEW", "k.py:f", sys.executable, tmp_path, limit=0.1)
    ended = running._run([sys.executable, "-c", "import signal; signal.pause()"])
    assert ended == "took more than 0.1 s (--time-limit)"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("old", "new", "more", "said"),
    [
        ("right", "attention", [], "OLD and NEW cannot be compared: they have two kinds, D~ and fused"),
        ("nothing", "right", [], "kernels.py has no 'nothing'"),
        (
            "right",
            "right",
            ["--old-python", "nowhere"],
            "--old-python is 'nowhere'; there is no such program",
        ),
        ("scaled", "attention", [], "their contracts mean two operators; o[0, 0, 0, 0] of one case is"),
        ("other_dtype", "right", [], "OLD and NEW cannot be compared: no dtype and device is of both"),
    ],
)
def test_what_cannot_be_compared(
    kernels: str, capfd: pytest.CaptureFixture[str], old: str, new: str, more: list[str], said: str
) -> None:
    """Each reason is one line, and the exit code is 2."""
    assert main(["compare", kernels + old, kernels + new, "--examples", "2", *more]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line


def test_a_python_without_dmat(kernels: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A Python that cannot import dmat is named with what it said."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'dmat'\" >&2\nexit 1\n")
    python.chmod(0o755)
    assert main(["compare", kernels + "right", kernels + "right", "--old-python", str(python)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("results: ModuleNotFoundError: No module named 'dmat'")


def tried(length: int = 1) -> Tried:
    """Return a case of this length."""
    return Tried(0, length, "gates = ...", "", [])


@pytest.mark.parametrize(
    ("old", "new", "worse"), [(0.3, 1.0, False), (0.3, 1.1, True), (0.9, 1.7, False), (0.9, 1.9, True)]
)
def test_worse_is_a_bit_lost(old: float, new: float, worse: bool) -> None:
    """NEW is worse beyond the strictest contract's bound, where its error is more than twice that of OLD."""
    assert bool(Pair(old=Total(strictest=old), new=Total(strictest=new)).worse()) is worse


def test_over_the_bound_is_worse_whatever_old_is() -> None:
    """NEW over its bound is worse though OLD is over its own; the shortest such case is kept."""
    pair = Pair(cases=2)
    for length in (5, 3):
        pair.new.count(Entry("o", worst=2.0, over="o[0]"), tried(length))
        pair.old.count(Entry("o", worst=9.0, over="o[0]"), tried(length))
    assert pair.worse() == "over its bound in 2 of 2 cases; o[0]"
    assert pair.new.case is not None
    assert pair.new.case.length == 3
    pair.new.count(Entry("o", raised="raised ValueError: no"), tried())
    assert pair.worse() == "NEW gave no result: raised ValueError: no"


def test_nearer_counts_what_the_truth_can_tell() -> None:
    """An entry is nearer in one side alone if its error is less by more than the truth's own error."""
    errors = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 1.0, 3.0001, 1.0])
    sides = [
        (Entry("o", "float32"), {"values": x, "errors": x, "slack": np.full(4, 0.001), "truth": x})
        for x in errors
    ]
    pair = Pair()
    pair.compare(sides[0], sides[1], tried(4))
    assert (pair.entries, pair.old.nearer, pair.new.nearer) == (3, 1, 1)
    assert pair.length == 4


def test_the_verdict() -> None:
    """A dtype that OLD does not promise is left out of the verdict. One that cannot be called is an error."""
    fine, failed = Compared("float32", "cpu"), Compared("float16", "cpu", reason="NEW cannot be called: ...")
    assert verdict([fine, Compared("float16", "cpu", reason=UNPROMISED)]) == "not worse"
    assert verdict([fine, failed]) == "error"
    assert verdict([failed, Compared("float64", "cpu", worse="NEW: died")]) == "worse"

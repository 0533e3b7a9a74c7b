"""The benchmark runs end to end, on sizes too small to measure anything."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, first_gpu, on_first_gpu, speed
from benchmarks.__main__ import main
from benchmarks.contestants import FORMULAS, double_loop
from benchmarks.timing import Times
from dmat import dtilde
from dmat.testing import devices


def test_speed_and_accuracy_write_what_they_found(tmp_path: Path) -> None:
    """Each part leaves a table and a plot, and speed every round of every call."""
    threads = torch.get_num_threads()
    options = ["--lengths", "8", "32", "--dtypes", "float32", "bfloat16", "--seconds", "0.01"]
    main(["speed", "accuracy", *options, "--cases", "6", "--threads", str(threads), "--out", str(tmp_path)])
    stem = f"{date.today()}-cpu-{threads}"
    names = {"accuracy.md", "accuracy.svg", "speed.json", "speed.md", "speed.svg"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}-{name}" for name in names}
    cells = json.loads((tmp_path / f"{stem}-speed.json").read_text())
    assert {(c["dtype"], c["S"]) for c in cells} == {(d, S) for d in ("float32", "bfloat16") for S in (8, 32)}
    assert all(len(c["times"]["seconds"]) >= 5 for c in cells)
    assert "| forward | float32 | 8 | dtilde(out=) |" in (tmp_path / f"{stem}-speed.md").read_text()


def test_every_ratio_asked_for_is_told() -> None:
    """With every length measured there is a line for each target."""
    times = Times([1.0, 1.0])
    names = {
        "forward": ("torch.full", "fill", "dtilde", "dtilde(out=)", "formula"),
        "backward": ("G.sum()", "dtilde"),
    }
    cells = [
        speed.Cell(direction, dtype, S, name, times, 0)
        for direction, calls in names.items()
        for name in calls
        for dtype in speed.DTYPES
        for S in (64, 256, 1024, 2048, 8192)
    ]
    assert len(speed.ratios(cells, "cpu")) == 13
    assert len(speed.ratios(cells, "cuda")) == 4


def test_accuracy_sees_a_wrong_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that computes in float32 is over the (window, float64) bound; the real one is not."""
    assert 0 < accuracy.worst("float32", 20).ratio < 1
    monkeypatch.setattr(accuracy, "dtilde", FORMULAS["masked sum"])
    assert accuracy.worst("float32", 20).ratio > 1


def test_the_double_loop_is_the_gradient() -> None:
    """What backward is compared with computes the same."""
    i, f = (torch.zeros(2, 4, 6, 1, requires_grad=True) for _ in "if")
    G = torch.arange(2 * 4 * 36.0).reshape(2, 4, 6, 6)
    expected = torch.autograd.grad(dtilde(i, f), (i, f), G)
    assert all(torch.equal(a, b) for a, b in zip(double_loop(G, f), expected, strict=True))


def test_bad_arguments_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A part that is none is told what there is."""
    with pytest.raises(SystemExit):
        main(["sped"])
    assert "PART is sped; expected one of speed, accuracy, framework" in capsys.readouterr().err


def test_first_gpu_says_that_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an accelerator it exits 2 with one line, and writes nothing."""
    if devices.accelerator() is not None:
        pytest.skip("this machine has an accelerator")
    assert main(["first-gpu", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "first-gpu: torch finds no accelerator on this machine\n"
    assert not list(tmp_path.iterdir())


def test_first_gpu_keeps_what_is_done(tmp_path: Path) -> None:
    """A part that raises, hangs, or lacks its package is a line; the next goes on, until the time is over."""
    page = tmp_path / "page.md"

    def code(text: str) -> tuple[str, ...]:
        return sys.executable, "-c", text

    after = f"from pathlib import Path; print(Path({str(page)!r}).read_text().count('## '))"
    every = [
        first_gpu.Part("one", 60, code("print('as it is')")),
        first_gpu.Part("two", 60, code("print('before'); raise ValueError('why')")),
        first_gpu.Part("three", 0.5, code("import time; time.sleep(60)")),
        first_gpu.Part("four", 60, code("1"), "no_such_package"),
        first_gpu.Part("five", 60, code(after)),
    ]
    first_gpu.measure("cpu", every, page, 300.0)
    first_gpu.measure("cpu", every[:1], tmp_path / "late.md", 0.0)
    one, two, three, four, five = page.read_text().split("## ")[1:]
    assert "exit 0" in one
    assert "as it is" in one
    assert "exit 1" in two
    assert "ValueError: why" in two
    assert "ended at its limit of 0 s" in three
    assert "not run: no_such_package is not installed" in four
    assert "\n4\n" in five, "the page had the parts before"
    assert "the time of all parts is over" in (tmp_path / "late.md").read_text()


def test_the_parts_of_first_gpu_fit_in_its_time() -> None:
    """The limits of all parts together are at most eight minutes."""
    assert sum(part.seconds for part in first_gpu.parts("cuda")) <= first_gpu.SECONDS == 480


def test_parts_of_first_gpu_that_a_cpu_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions and times are printed on any device."""
    on_first_gpu.versions("cpu")
    on_first_gpu.bandwidth("cpu", (16,))
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    assert "| forward | bfloat16 | 16 | dtilde(out=) |" in printed

"""The benchmark runs end to end, on sizes too small to measure anything."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, speed
from benchmarks.__main__ import main
from benchmarks.contestants import FORMULAS, double_loop
from benchmarks.timing import Times
from dmat import dtilde


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

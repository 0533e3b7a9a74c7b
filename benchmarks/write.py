"""Write what was measured: Markdown with tables, JSON, and two plots, into one folder."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dmat.testing import devices

from .speed import Cell, Ratio

FLOORS = {"forward": "torch.full", "backward": "G.sum()"}


def heading(device: str) -> str:
    """Machine, versions, date and command."""
    model = devices.model(device) or _cpu()
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    return (
        f"{date.today()}, {model}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}. `{command}`\n"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]} x {len(models)}" if models else platform.machine()


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body]) + "\n"


def of_ratios(ratios: list[Ratio]) -> str:
    """What was asked for, what was measured, and whether that is it."""
    rows = [["ratio", "measured", "asked", ""]]
    for ratio in ratios:
        sign = ">=" if ratio.at_least else "<="
        rows.append(
            [
                ratio.what,
                f"{ratio.value:.3g}",
                f"{sign} {ratio.target:.3g}",
                "met" if ratio.met else "not met",
            ]
        )
    return table(rows)


def of_cells(cells: list[Cell]) -> str:
    """Every call: median and quartiles in milliseconds, over its floor, and peak memory over the matrix."""
    floors = {(c.direction, c.dtype, c.S): c.times.median for c in cells if c.name == FLOORS[c.direction]}
    rows = [["direction", "dtype", "S", "call", "ms", "quartiles", "over floor", "peak / matrix"]]
    for c in cells:
        low, high = (1e3 * q for q in c.times.quartiles)
        over = c.times.median / floors[c.direction, c.dtype, c.S]
        median = f"{1e3 * c.times.median:.3g}"
        share = f"{c.peak / c.matrix:.3f}"
        rows.append(
            [c.direction, c.dtype, str(c.S), c.name, median, f"{low:.3g} .. {high:.3g}", f"{over:.2f}", share]
        )
    return table(rows)


def as_json(cells: list[Cell], path: Path) -> None:
    """Every round of every call."""
    path.write_text(json.dumps([asdict(cell) for cell in cells]) + "\n")


def plot_times(cells: list[Cell], path: Path) -> None:
    """Time over the floor against S, in float32: forward beside backward."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, direction in zip(figure.subplots(1, 2), FLOORS, strict=True):
        mine = [c for c in cells if (c.direction, c.dtype) == (direction, "float32")]
        floor = {c.S: c.times.median for c in mine if c.name == FLOORS[direction]}
        for name in dict.fromkeys(c.name for c in mine):
            points = [(c.S, c.times.median / floor[c.S]) for c in mine if c.name == name]
            axes.loglog(*zip(*points, strict=True), marker=".", label=name)
        axes.set(title=direction, xlabel="S", ylabel=f"time over {FLOORS[direction]}")
        axes.legend(fontsize="x-small")
    FigureCanvasSVG(figure).print_svg(str(path))  # type: ignore[no-untyped-call]


def plot_errors(errors: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Worst relative error against S, by contestant: one panel a kind of gates."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (gates, by_length) in zip(figure.subplots(1, len(errors)), errors.items(), strict=True):
        for name in next(iter(by_length.values())):
            axes.loglog(
                list(by_length), [max(e[name], 1e-9) for e in by_length.values()], marker=".", label=name
            )
        axes.set(title=gates, xlabel="S", ylabel="worst relative error")
        axes.legend(fontsize="x-small")
    FigureCanvasSVG(figure).print_svg(str(path))  # type: ignore[no-untyped-call]

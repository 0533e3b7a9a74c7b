"""What a run says it has tried: regimes of gates and classes of lengths, by dtype, from every worker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmat.strategies import Constant, Cycle, Gates, MinusWindow, inf, nan
from dmat.strategies.regime import LENGTHS, REGIMES, length_class, regime
from dmat.strategies.values import Background

ONE, SHAPE = Constant(1.0), (1, 1, 3)
EXAMPLES: dict[str, Gates] = {
    "empty": Gates("float32", (1, 1, 0)),
    "exact": Gates("float32", SHAPE, Constant(64.0), Cycle((-64.0, inf))),
    "special": Gates("float32", SHAPE, ONE, Constant(nan)),
    "extreme": Gates("float32", SHAPE, ONE, Constant(-1e4)),
    "saturated": Gates("float32", SHAPE, ONE, Constant(21.0)),
    "subnormal": Gates("float32", SHAPE, Constant(1e-40), ONE),
    "cancelling": Gates("float32", SHAPE, MinusWindow(), ONE),
    "zeros": Gates("float32", SHAPE, ONE, Constant(0.0)),
    "ordinary": Gates("float32", SHAPE, ONE, ONE),
}


@pytest.mark.parametrize("name", REGIMES)
def test_regime_is_that_of_its_gates(name: str) -> None:
    """Each regime is told from the values of the recipe."""
    assert regime(EXAMPLES[name]) == name


@pytest.mark.parametrize("igate", [Constant(0.0), Constant(inf), Constant(-inf), Constant(nan)])
def test_regime_of_special_input_gates_is_special(igate: Background) -> None:
    """A special input gate over gates of the exact regime is no exact case."""
    found = regime(Gates("float32", SHAPE, igate, Constant(-64.0)))
    assert found == ("exact" if igate == Constant(0.0) else "special")


def test_lengths_fall_into_their_classes() -> None:
    """The classes are as their names say."""
    assert [length_class(S) for S in (0, 1, 2, 5, 6, 24, 25, 150, 151)] == [
        *LENGTHS[:2],
        *(name for name in LENGTHS[2:5] for _ in range(2)),
        LENGTHS[5],
    ]


def test_table_adds_up_what_all_workers_tried(tmp_path: Path) -> None:
    """Under xdist the table's regimes, and its lengths, add up to the examples of the records."""
    report = tmp_path / "records.jsonl"
    arguments = ["-n", "2", "-k", "values or exact", "--dmat-impl", "dmat:dtilde", "--dmat-dtype", "float32"]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--pyargs",
            "dmat.properties",
            "--dmat-report",
            str(report),
            *arguments,
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    examples = sum(int(n) for n in re.findall(r'"examples": (\d+)', report.read_text()))
    rows = dict(re.findall(r"(?m)^(\S.*?) +([\d,]+)$", run.stdout.partition("examples of the laws")[2]))
    counts = {name: int(number.replace(",", "")) for name, number in rows.items()}
    assert sum(counts[name] for name in REGIMES) == examples
    assert sum(counts[name] for name in LENGTHS) == examples

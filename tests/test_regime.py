"""The coverage that a run reports: regimes of gates and classes of lengths, by dtype, from every worker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmat.strategies import Constant, Cycle, Gates, MinusWindow, inf, nan
from dmat.strategies.recipes.backgrounds import Background
from dmat.strategies.regimes import DTILDE, FUSED, NAMES, REGIMES, GateFormat, Regime, palettes, regime_of
from dmat.strategies.shapes import LENGTHS, length_class

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


@pytest.mark.parametrize("name", EXAMPLES)
def test_regime_is_that_of_its_gates(name: str) -> None:
    """Each regime is told from the values of the recipe."""
    assert regime_of(EXAMPLES[name]) == name


FORMATS = [
    GateFormat(kind, dtype, ("-inf", "+inf", "nan") if kind == DTILDE else (), log)
    for kind, log in ((DTILDE, False), (FUSED, False), (FUSED, True))
    for dtype in ("float64", "float32", "bfloat16", "float16")
]


@pytest.mark.parametrize("own", FORMATS, ids=str)
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_rows_hold_their_own_gates(regime: Regime, own: GateFormat) -> None:
    """A row's spikes are of its regime; its constants and restarts are, beside an input gate of 0 or 1."""
    pairs = [pair for pairs in regime.spikes(own, 3).values() for pair in pairs]
    assert {regime_of(Gates(own.dtype, SHAPE, *pair)) for pair in pairs} <= {regime.name}
    for ranked in (regime.constants(own), regime.restarts):
        for fgate in (Constant(value) for values in ranked.values() for value in values):
            assert regime.name in [regime_of(Gates(own.dtype, SHAPE, Constant(i), fgate)) for i in (0.0, 1.0)]


@pytest.mark.parametrize("own", FORMATS, ids=str)
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_palettes_are_of_their_regime(regime: Regime, own: GateFormat) -> None:
    """At least half of the values of a palette, constant forget gates, are of its row's regime."""
    igate = MinusWindow() if regime.draw_igate else ONE  # beside a 1 no gate is of the exact regime
    for values in regime.palettes(own).values():
        found = [regime_of(Gates(own.dtype, SHAPE, igate, Constant(value))) for value in values]
        assert 2 * found.count(regime.name) >= len(found)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_long_restarts_are_few_of_the_restarts(regime: Regime) -> None:
    """Long sequences restart from no gate that short ones do not restart from."""
    ranks = (regime.restarts, regime.long_restarts)
    every, few = ([x for values in ranked.values() for x in values] for ranked in ranks)
    assert set(few) <= set(every)


def test_log_gates_are_at_most_zero() -> None:
    """No palette of log gates opens a gate further than 0."""
    for own in FORMATS:
        assert not own.log or max(value for values in palettes(own) for value in values) <= 0.0


@pytest.mark.parametrize("igate", [Constant(0.0), Constant(inf), Constant(-inf), Constant(nan)])
def test_regime_of_special_input_gates_is_special(igate: Background) -> None:
    """A special input gate over gates of the exact regime is no exact case."""
    found = regime_of(Gates("float32", SHAPE, igate, Constant(-64.0)))
    assert found == ("exact" if igate == Constant(0.0) else "special")


def test_lengths_fall_into_their_classes() -> None:
    """The classes are as their names say."""
    assert [length_class(S) for S in (0, 1, 2, 5, 6, 24, 25, 150, 151)] == [
        *LENGTHS[:2],
        *(name for name in LENGTHS[2:5] for _ in range(2)),
        LENGTHS[5],
    ]


def test_table_adds_up_what_all_workers_tried(tmp_path: Path) -> None:
    """Under xdist the table's regimes, and its lengths, add up to what the records have drawn."""
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
    drawn = sum(sum(json.loads(line)["drawn"].values()) for line in report.read_text().splitlines())
    rows = dict(
        re.findall(
            r"(?m)^(\S.*?) +([\d,]+)$", run.stdout.partition("different gate sequences of the laws")[2]
        )
    )
    counts = {name: int(number.replace(",", "")) for name, number in rows.items()}
    assert sum(counts[name] for name in NAMES) == drawn
    assert sum(counts[name] for name in LENGTHS) == drawn

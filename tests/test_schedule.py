"""The schedule of a fuzzing run: its next cell, its totals, and the cases that it draws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import get_args

import msgspec
import pytest

from dmat.strategies.cases.dtilde import GATES, HUGE
from dmat.strategies.domain import Domain
from dmat.strategies.regimes import NAMES, regimes_of
from dmat.strategies.shapes import USUAL
from dmat.testing.causes.known import Cell
from dmat.testing.errors import RunError
from dmat.testing.fuzzing import tasks, worker
from dmat.testing.fuzzing.balance import balanced
from dmat.testing.fuzzing.log import FILE, Happened, Log, Request
from dmat.testing.fuzzing.messages import Done, Found, PlannedCell, Turn
from dmat.testing.fuzzing.schedule import EXPENSIVE, FIRST, LONGEST, Schedule
from dmat.testing.fuzzing.tally import Sum
from dmat.testing.registry import law_named

LAWS = ("quick", "slow", "dear")
COST = {"quick": 1.0, "slow": 1.5, "dear": 20.0}  # times what a turn was given


def cells(kernels: int = 5) -> list[PlannedCell]:
    return [
        PlannedCell(Cell(law, f"kernel {n}", "float32", "cpu"), LAWS.index(law), 10 if law == "dear" else 1)
        for law in LAWS
        for n in range(kernels)
    ]


def turns(total: Sum, schedule: Schedule, count: int, left: float = 1e6) -> list[Turn]:
    """Take so many turns, one after the other."""
    taken = []
    for _ in range(count):
        turn = schedule.next(left)
        assert turn is not None
        taken.append(turn)
        total.add(Done(turn.name, turn.cell, COST[turn.cell.law] * turn.seconds, 3))
        schedule.ended(turn.cell, COST[turn.cell.law] * turn.seconds)
    return taken


def test_breadth_before_depth() -> None:
    """Of a law, every cell has its n-th turn before any has its next, and turns double up to the longest."""
    total = Sum(cells())
    taken = turns(total, Schedule(total, 1), 400)
    seen: Counter[Cell] = Counter()
    for turn in taken:
        assert turn.seconds == min(FIRST * 2 ** seen[turn.cell], LONGEST)
        seen[turn.cell] += 1
        mine = [seen[cell] for cell in total.cells if cell.law == turn.cell.law]
        assert max(mine) - min(mine) <= 1


def test_laws_have_equal_time() -> None:
    """Whatever an example costs, no law gets more time than another, but for one turn of each."""
    total = Sum(cells())
    turns(total, Schedule(total, 1), 600)
    spent = Counter[str]()
    for cell, tally in total.tallies.items():
        spent[cell.law] += tally.spent  # type: ignore[assignment]
    assert max(spent.values()) - min(spent.values()) <= max(COST.values()) * LONGEST


def test_first_turns_are_spread_over_kernels() -> None:
    """Not every law begins with the same kernel: a short run has tried all of them."""
    planned = [
        PlannedCell(Cell(f"law {n}", f"kernel {k}", "float32", "cpu"), n)
        for n in range(20)
        for k in range(20)
    ]
    total = Sum(planned)
    schedule = Schedule(total, 3)
    first = {turn.cell.implementation for _ in range(20) if (turn := schedule.next(1e6))}
    assert len(first) > 8


def test_turns_differ() -> None:
    """No two turns of a run, sittings included, have one name or one seed."""
    total = Sum(cells())
    taken = turns(total, Schedule(total, 1), 100)
    taken += turns(total, Schedule(total, 1, sitting=2), 100)
    assert len({turn.name for turn in taken}) == len({turn.seed for turn in taken}) == 200


def test_nothing_dear_at_the_end() -> None:
    """What would not end in time is not begun, and no turn is longer than what is left."""
    total = Sum(cells())
    taken = turns(total, Schedule(total, 1), 30, left=EXPENSIVE / 2)
    assert {turn.cell.law for turn in taken} == {"quick", "slow"}
    assert all(turn.seconds <= 0.01 for turn in turns(total, Schedule(total, 1), 3, left=0.01))


def test_what_ends_its_process_waits() -> None:
    """A cell that has ended a process is not tried again before the others have had as many turns."""
    total = Sum(cells(2))
    deadly = next(iter(total.cells))
    total.note(Found(deadly, "call: died", "{}", "", "", "died"))
    taken = [turn.cell for turn in turns(total, Schedule(total, 1), 6) if turn.cell.law == "quick"]
    assert taken[0] != deadly


def test_what_cannot_be_tried_is_not() -> None:
    """Cells with a reason, or in trouble, get no turn; without any others there is none."""
    total = Sum([PlannedCell(Cell("law", "kernel", "float32", "cpu"), 0, reason="not promised")])
    assert Schedule(total, 1).next(1.0) is None
    total = Sum(cells(1)[:1])
    schedule = Schedule(total, 1)
    turn = schedule.next(1.0)
    assert turn is not None
    total.add(Done(turn.name, turn.cell, 0.1, trouble="the call raised"))
    schedule.ended(turn.cell, 0.1)
    assert schedule.next(1.0) is None


# What is drawn


def test_regimes_are_balanced() -> None:
    """Every regime of gates is drawn at least twice as often, or as the average, as by chance alone."""
    entry, domain = law_named("values"), Domain()
    tried: Counter[str] = Counter()
    random = Random(5)
    for _ in range(600):
        tried.update(regimes_of(balanced(entry, domain, random, tried)["gates"]))
    alone = Counter(name for n in range(600) for name in regimes_of(GATES.draw(Random(n), domain)["gates"]))
    least = min(NAMES, key=alone.__getitem__)
    assert set(tried) == set(NAMES)
    assert tried[least] >= min(2 * alone[least], 600 // len(NAMES) // 2)


def test_long_sequences_where_there_is_time() -> None:
    """With `longest`, some cases reach beyond the usual lengths, none beyond it or max_seq."""
    lengths = [Domain(longest=1100).draw_gates(Random(n)).shape[-1] for n in range(2000)]
    assert USUAL < max(lengths) <= 1100
    short = [Domain(longest=1100, max_seq=300).draw_gates(Random(n)).shape[-1] for n in range(2000)]
    assert max(short) <= 300
    blocks = [Domain(longest=1100, seq_multiple_of=64).draw_gates(Random(n)).shape[-1] for n in range(500)]
    assert not [S for S in blocks if S % 64]


def test_huge_cases_fill_the_memory() -> None:
    """With memory to fill, D~ is drawn to fill it, and past 2^16 times where integers are exact there."""
    memory = 40 * 2**30
    shapes = {HUGE.draw(Random(n), Domain(memory=memory))["shape"] for n in range(50)}
    assert all(NH * S * S * 4 <= memory for _, NH, S in shapes)
    assert max(NH * S * S * 4 for _, NH, S in shapes) > 0.99 * memory
    assert max(S for *_, S in shapes) > 2**16
    assert (
        max(
            S
            for *_, S in {HUGE.draw(Random(n), Domain("bfloat16", memory=memory))["shape"] for n in range(50)}
        )
        <= 256
    )


# The log


ASKED = Request(("kernel",), (), (), 60.0, 1, "2026-01-01T00:00:00+00:00", "dmat fuzz kernel")


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    """A run that was killed while it wrote leaves a log that can be read, and added to."""
    log = Log(tmp_path)
    log.write(ASKED)
    log.write(Happened(1.0, "this"))
    log.close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(msgspec.json.encode(Happened(2.0, "that"))[:-9])
    log = Log(tmp_path)
    log.write(Happened(3.0, "then"))
    assert list(log.lines()) == [ASKED, Happened(1.0, "this"), Happened(3.0, "then")]
    log.close()


def test_one_run_a_folder(tmp_path: Path) -> None:
    """A second run in the folder of one that goes on is refused, with its name."""
    log = Log(tmp_path)
    with pytest.raises(RunError, match="a run is going on there"):
        Log(tmp_path)
    log.close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    """What is no entry of a log is an error that says where it stands."""
    log = Log(tmp_path)
    log.write(ASKED)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text() + "[]\n")
    with pytest.raises(RunError, match=r"log\.jsonl, line 2"):
        list(log.lines())
    log.close()


def test_every_task_is_a_function_of_the_worker() -> None:
    """Tasks are called by name: a renamed function would be missed only when a process dies."""
    assert {name for name in get_args(tasks.Task) if not callable(getattr(worker, name, None))} == set()

"""From records to verdicts: a law with a missing part does not pass, nor a kernel when another one dies."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from rich.console import Console

from dmat.testing.check.plan import Plan, PlannedSubject
from dmat.testing.check.report import exit_code, gather, show
from dmat.testing.record import Record, Report, Status, Wider
from dmat.testing.registry import laws

LAW = laws()[0].name
ONE, OTHER = (PlannedSubject(name, {}, "float32", "cpu") for name in ("k.py:a", "k.py:b"))
ALL = [law.name for law in laws()]
BOTH = Plan({"D~": ALL}, [ONE, OTHER])


def line(name: str, part: str, status: Status = "passed") -> Record:
    """Return the record of one law."""
    return Record(LAW, name, "float32", "cpu", status, "", part=part, examples=1)


def statuses(reports: list[Report]) -> list[object]:
    """Return the status of LAW for each implementation."""
    return [record.status for report in reports for record in report.laws if record.law == LAW]


def test_both_parts_make_a_law() -> None:
    """With --first a law passes when its ladder and its search have, in whichever order they came."""
    parts = [line("k.py:a", "search"), line("k.py:a", "ladder"), line("k.py:b", "ladder")]
    assert statuses(gather(parts, BOTH, first=True)) == ["passed", "not run"]


def test_a_search_does_not_hide_its_ladder() -> None:
    """A ladder that was broken or never came is not made good by a search that passed."""
    for before, status in (
        ([line("k.py:a", "ladder", "failed")], "failed"),
        ([], "not run"),
    ):
        reports = gather([*before, line("k.py:a", "search")], Plan({"D~": ALL}, [ONE]), first=True)
        assert statuses(reports) == [status]
        assert reports[0].verdict != "sound"


def test_a_broken_kernel_says_nothing_about_another() -> None:
    """The records of one implementation are no verdict on another."""
    reports = gather([line("k.py:b", "all", "failed")], BOTH)
    assert statuses(reports) == ["not run", "failed"]
    assert [report.verdict for report in reports] == ["error", "broken"]
    assert exit_code(reports) == 1


def test_what_was_not_reached_is_not_sound() -> None:
    """Where another implementation ended the run, this one is not known to be right."""
    reports = gather([line("k.py:b", "ladder", "failed")], BOTH, first=True)
    assert [report.verdict for report in reports] == ["error", "broken"]


WIDER: dict[str, tuple[Wider | None, str]] = {
    "nothing searched": (None, "BROKEN: k.py:a breaks"),
    "unfinished": (Wider("unfinished"), "was not searched to the end."),
    "none": (Wider("none"), "No contract admits it: this is a bug."),
    "found": (Wider("found", {}, "@d(x=1)"), "  @d(x=1)"),
    "in part": (
        Wider("found", {}, "@d(x=1)", ["float64"]),
        "In float64 no contract admits it: there it is a bug.",
    ),
}


@pytest.mark.parametrize("found", WIDER)
def test_the_verdict_ends_with_what_was_searched(found: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Behind the verdict stands the wider contract, or that it is a bug, or that nobody knows."""
    stands_under, last = WIDER[found]
    [report] = gather([line("k.py:a", "all", "failed")], Plan({"D~": ALL}, [ONE]))
    show(replace(report, stands_under=stands_under), Console())
    assert last in capsys.readouterr().out.splitlines()[-1]

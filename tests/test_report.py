"""From records to verdicts: a law with a missing part does not pass, nor a kernel when another one dies."""

from __future__ import annotations

import io
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from dmat.testing.check.page import show
from dmat.testing.check.plan import Plan, PlannedSubject
from dmat.testing.check.report import exit_code, gather
from dmat.testing.record import Broken, CauseEntry, Record, Report, Status, Wider
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
    "nothing searched": (None, "BROKEN: k.py:a breaks 1 law"),
    "unfinished": (Wider("unfinished"), "was not searched to the end.\n"),
    "none": (Wider("none"), "No contract admits it: this is a bug."),
    "found": (Wider("found", {}, "@d(x=1)"), "  @d(x=1)\n"),
    "in part": (
        Wider("found", {}, "@d(x=1)", ["float64"]),
        "In float64 no contract admits it: there it is a bug.",
    ),
}


@pytest.mark.parametrize("found", WIDER)
def test_the_page_says_what_was_searched(found: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Behind the causes stands the wider contract, or that it is a bug, or that nobody knows."""
    stands_under, said = WIDER[found]
    [report] = gather([line("k.py:a", "all", "failed")], Plan({"D~": ALL}, [ONE]))
    show(replace(report, stands_under=stands_under), Console())
    assert said in capsys.readouterr().out


def cause(law: str, kind: Any = "bug", **more: Any) -> CauseEntry:
    """Return a cause that breaks one law in two dtypes."""
    breaks = [Broken(law, "float32", "cpu"), Broken(law, "float64", "cpu")]
    message = "\n".join(f"{law} says {number}" for number in range(30))
    place: dict[str, Any] = {
        "law": law,
        "dtype": "float32",
        "device": "cpu",
        "ended": "broken",
        "breaks": breaks,
    }
    known: dict[str, Any] = {
        "case": None,
        "recipe": None,
        "folder": None,
        "gates": "at ordinary gates",
        "message": message,
    }
    return CauseEntry(kind=kind, sentence=f"It is {law}.", **place, **known, **more)


def page(report: Report, *, verbose: bool = False) -> list[str]:
    """Return the lines of the page of a report."""
    with io.StringIO() as out:
        show(report, Console(file=out, width=200), {LAW: "values"}, verbose=verbose)
        return out.getvalue().splitlines()


def fallen(*causes: CauseEntry) -> Report:
    """Return the report of a kernel that falls, by these causes."""
    [report] = gather([line("k.py:a", "all", "failed")], Plan({"D~": ALL}, [ONE]))
    return replace(report, causes=list(causes), seed=7)


def test_the_page_begins_with_the_verdict_and_its_causes() -> None:
    """The verdict counts the causes; each is numbered, with its laws in one line and its decorator."""
    lines = page(fallen(cause("future"), cause("values", "promise", decorator="@d(x=1)", tried="all laws")))
    assert lines[0] == "BROKEN: k.py:a breaks 1 law, by 2 causes: 1 bug, 1 promise not kept"
    assert "1. a bug. It is future. Seen at ordinary gates." in lines
    assert "2. It is values. Seen at ordinary gates." in lines
    assert "   breaks values (float32, float64)" in lines
    assert "   not promised with  @d(x=1)" in lines
    assert lines[-1].startswith("--seed 7 repeats this check")


def test_a_page_of_one_cause_is_short() -> None:
    """A broken kernel of one cause takes at most 60 lines, though its message takes 30."""
    assert len(page(fallen(cause("values")))) <= 60


def test_the_matrix_is_shown_on_request() -> None:
    """Only --verbose shows the matrix of all laws."""
    assert "FAILED" not in "\n".join(page(fallen(cause("values"))))
    assert "FAILED" in "\n".join(page(fallen(cause("values")), verbose=True))


def test_a_sound_page_says_the_worst_error_and_the_regimes() -> None:
    """SOUND comes with the worst error over its bound and the gate sequences of each regime."""
    plan = Plan({"D~": [LAW]}, [ONE])
    passed = Record(LAW, "k.py:a", "float32", "cpu", "passed", "", examples=1, worst=0.25)
    passed.drawn = {"ordinary, S up to 5": 3, "ordinary, S past 5": 4, "special, S up to 5": 1}
    lines = page(gather([passed], plan)[0])
    assert lines[0].startswith("SOUND: k.py:a keeps all 1 laws")
    assert lines[1] == f"held  values  all 1, worst error 0.25 of its bound: {LAW}"
    assert lines[2] == "gate sequences by regime: ordinary 7, special 1"

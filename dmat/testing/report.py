"""The report of a check: records in, one verdict per implementation out, as a table and as JSON.

The JSON is a Report; its schema is report.schema.json beside this file. "sound": every law that the contract
implies was run and held. "broken": a law does not hold. "error": some law that the contract implies was not
run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmat.testing.cannot import UNCALLABLE
from dmat.testing.interpret import caveat
from dmat.testing.near import near
from dmat.testing.plan import Plan, subject_ids
from dmat.testing.record import (
    FORMAT,
    Dtype,
    Format,
    Interpreted,
    LawRecord,
    Lost,
    Promises,
    Record,
    Target,
    Unreached,
    read_line,
    stated,
    text_of,
)

OF_A_PART = ("status", "reason", "promised", "case", "recipe", "folder", "ended")
NOT_REACHED = "not reached: the run stopped before it was done"


class Wider(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a wider contract admits an implementation that falls."""

    outcome: Annotated[
        Literal["found", "none", "unfinished"],
        Meta(description="none: no contract admits it; unfinished: not searched to the end"),
    ]
    contract: Annotated[
        dict[str, Any] | None,
        Meta(description="found: its promises that differ from the strictest default"),
    ] = None
    decorator: Annotated[str | None, Meta(description="found: the same, as Python to paste")] = None
    wrong_in: Annotated[
        list[Dtype], Meta(description="found: the dtypes in which no contract admits it")
    ] = []


class Report(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one implementation. laws: a record a law, dtype and device."""

    format: Format = FORMAT
    implementation: Target
    verdict: Literal["sound", "broken", "error"]
    contract: Promises
    laws: list[LawRecord]
    stands_under: Annotated[
        Wider | None,
        Meta(
            description="of one that falls and left promises unstated: whether a wider contract admits it;"
            " else null"
        ),
    ] = None
    interpreter: Interpreted = None

    @classmethod
    def of(cls, implementation: str, contract: dict[str, object], laws: list[LawRecord]) -> Report:
        """Return the report of an implementation, with the verdict that follows from the records."""
        return cls(
            implementation=implementation, verdict=_verdict(laws), contract=stated(contract), laws=laws
        )

    def broken(self) -> list[LawRecord]:
        """Return the records of the laws that do not hold."""
        return [r for r in self.laws if r.status == "failed"]

    def unfinished(self) -> list[LawRecord]:
        """Return the records of the laws that should have been run and were not."""
        return [r for r in self.laws if r.status == "not run" and r.promised]

    def uncallable(self) -> dict[tuple[str, str], str]:
        """Return the reason of each dtype and device in which it cannot be called, and no law was tried."""
        tried = {(r.dtype, r.device) for r in self.laws if r.status in ("passed", "failed")}
        found = [r for r in self.unfinished() if r.reason.startswith(UNCALLABLE)]
        reasons = {(r.dtype, r.device): r.reason for r in reversed(found)}
        return {place: reasons[place] for place in reversed(reasons) if place not in tried}

    def only_callable(self) -> Report:
        """Return the report of the other dtypes and devices."""
        without = self.uncallable()
        return replace(self, laws=[r for r in self.laws if (r.dtype, r.device) not in without])


def _verdict(laws: list[LawRecord]) -> Literal["sound", "broken", "error"]:
    if any(r.status == "failed" for r in laws):
        return "broken"
    unfinished = any(r.status == "not run" and r.promised for r in laws)
    return "error" if unfinished or not laws else "sound"


def gather(lines: Iterable[str], plan: Plan, *, first: bool = False) -> list[Report]:
    """Return a report per implementation from the plugin's JSON lines.

    Each law x implementation x dtype x device of the plan gets a record, as "not run" where none came.
    first: the run was told to stop at the first broken law; the rest of what broke it was not promised.
    """
    came: dict[tuple[str, ...], dict[str, Record]] = {}
    lost = set()
    for line in map(read_line, lines):
        if isinstance(line, Lost):
            lost.add(line.nodeid.rpartition("::")[2])
        else:
            came.setdefault((line.law, line.implementation, line.dtype, line.device), {})[line.part] = line
    reports = []
    contracts = {subject.implementation: subject.contract for subject in plan.subjects}
    kinds = {subject.implementation: subject.kind for subject in plan.subjects}
    for name, contract in contracts.items():
        places = [(s.dtype, s.device) for s in plan.subjects if s.implementation == name]
        keys = [(law, name, *place) for law in plan.laws[kinds[name]] for place in places]
        records = [_record(key, came.get(key, {}), lost) for key in keys]
        if first and any(r.status == "failed" for r in records):
            records = [replace(r, promised=False) if isinstance(r, Unreached) else r for r in records]
        reports.append(Report.of(name, contract, records))
    return reports


def _record(key: tuple[str, str, str, str], parts: dict[str, Record], lost: set[str]) -> LawRecord:
    """Return the record of a law from those of its parts: the worst of them, if none is missing."""
    law, implementation, dtype, device = key
    came = list(parts.values())
    sums: dict[str, Any] = {
        "examples": sum(r.examples for r in came),
        "worst": max((r.worst for r in came if r.worst is not None), default=None),
        "seconds": round(sum(r.seconds for r in came), 3),
    }
    if any(f"test_law_{law}[{name}]" in lost for name in subject_ids(implementation, dtype, device)):
        died = f"{law}: the process died while it called {implementation}, {dtype} on {device}"
        return LawRecord(
            law, implementation, dtype, device, status="failed", reason=died, ended="died", **sums
        )
    for status in ("failed", "not run", "known", "passed"):
        for r in came:
            whole = "all" in parts or {"ladder", "search"} <= set(parts)
            if r.status == status and (status != "passed" or whole):
                return LawRecord(law, implementation, dtype, device, **_of_a_part(r), **sums)
    return Unreached(law, implementation, dtype, device, reason=NOT_REACHED, **sums)


def _of_a_part(record: Record) -> dict[str, Any]:
    """Return what the record of a law has from that of the part that decides."""
    return {name: getattr(record, name) for name in OF_A_PART}


def exit_code(reports: Sequence[Report]) -> int:
    """0: every law held. 1: a law is broken. 2: some law could not be checked, and none is broken."""
    verdicts = {report.verdict for report in reports}
    return 1 if "broken" in verdicts else 2 if "error" in verdicts or not verdicts else 0


def write_json(reports: Sequence[Report], file: Path) -> None:
    """Write one report as an object, several as a list; whole or not at all."""
    written(text_of(reports[0] if len(reports) == 1 else list(reports), indent=2), file)


def written(text: str, file: Path) -> None:
    """Write a file whole, or leave what was there."""
    beside = file.with_name(file.name + ".part")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(file)


def show(report: Report, console: Console) -> None:
    """Print the matrix law x dtype, each broken law with its smallest case, and the verdict.

    Of a target that cannot be called in any dtype, one line; in some dtypes, one line of those.
    """
    uncallable, whole = report.uncallable(), report
    report = report.only_callable()
    if uncallable and not report.laws:
        reason = next(iter(uncallable.values()))
        plain(console, f"COULD NOT BE CHECKED: {report.implementation} {reason}")
        _show_rest(report, console)
        return
    console.print(_matrix(report))
    reasons = sorted({f"{r.law}: {r.reason}" for r in report.laws if _excluded(r)})
    if reasons:
        console.print("not run, with the reason:", style="dim")
        for reason in _grouped(reasons):
            console.print(f"  {reason}", style="dim", markup=False, highlight=False)
    if uncallable:
        plain(console, f"not run: {in_places(uncallable)}: {next(iter(uncallable.values()))}")
    unreached = sum(isinstance(r, Unreached) for r in report.laws)
    if unreached:
        plain(console, f"{unreached} checks not reached: the run stopped before")
    for record in [r for r in report.unfinished() if not isinstance(r, Unreached)]:
        plain(console, f"not run: {record.law} ({record.dtype}): {record.reason}")
    for record in [r for r in report.laws if r.status == "known"]:
        plain(console, f"known: {record.law} ({record.dtype}): {record.reason}")
    _show_broken(report, console)
    plain(console, _verdict_line(whole))
    _show_rest(whole, console)


def in_places(places: Iterable[tuple[str, str]]) -> str:
    """Return "float16, float64 on cpu"."""
    dtypes: dict[str, list[str]] = {}
    for dtype, device in places:
        dtypes.setdefault(device, []).append(dtype)
    return "; ".join(f"{', '.join(names)} on {device}" for device, names in dtypes.items())


def _show_rest(report: Report, console: Console) -> None:
    if report.interpreter is not None:
        plain(console, caveat(report.interpreter))
    for line in _wider(report):
        plain(console, line)


def _wider(report: Report) -> list[str]:
    """Return the lines that say whether a promise was never made, or a bug was found."""
    found, fused = report.stands_under, "reads" in report.contract
    if found is None:
        return []
    if found.outcome == "unfinished":
        return ["Whether it stands under a wider contract was not searched to the end."]
    if found.outcome == "none":
        same = " that reads the same from the same arguments" if fused else ""
        return [f"No contract{same} admits it: this is a bug."]
    lines = ["It stands under a wider contract, which promises less:", f"  {found.decorator}"]
    wrong = ", ".join(found.wrong_in)
    return [*lines, f"In {wrong} no contract admits it: there it is a bug."] if wrong else lines


def _excluded(record: LawRecord) -> bool:
    return record.status == "not run" and not record.promised and not isinstance(record, Unreached)


def _grouped(reasons: list[str]) -> list[str]:
    """Return one line a reason, with the laws it keeps from running."""
    by_reason: dict[str, list[str]] = {}
    for reason in reasons:
        law, _, why = reason.partition(": ")
        by_reason.setdefault(why, []).append(law)
    return [f"{why}: {', '.join(names)}" for why, names in by_reason.items()]


def plain(console: Console, text: str) -> None:
    """Print a line as it stands: no markup, no colours, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _matrix(report: Report) -> Table:
    """One row a law, one column a dtype and device; a number is the worst error over its bound."""
    places = list(dict.fromkeys((r.dtype, r.device) for r in report.laws))
    many = len({device for _, device in places}) > 1
    table = Table(title=Text(report.implementation), title_justify="left", box=None, pad_edge=False)
    table.add_column("law", no_wrap=True)
    for dtype, device in places:
        table.add_column(f"{dtype} {device}" if many else dtype, justify="right", no_wrap=True)
    cells = {(r.law, r.dtype, r.device): r for r in report.laws}
    for law in dict.fromkeys(r.law for r in report.laws if not isinstance(r, Unreached)):
        table.add_row(law, *(_cell(cells[law, *place]) for place in places))
    return table


def _cell(record: LawRecord) -> Text:
    if record.status == "passed":
        return Text("ok" if record.worst is None else f"ok {record.worst:.2f}", style="green")
    if record.status == "failed":
        return Text("FAILED", style="bold red")
    if record.status == "known":
        return Text("known", style="yellow")
    return Text("" if isinstance(record, Unreached) else "not run", style="dim")


def _show_broken(report: Report, console: Console) -> None:
    """Print each broken law once in full; of its other dtypes, the case alone."""
    by_law: dict[str, list[LawRecord]] = {}
    for record in report.broken():
        by_law.setdefault(record.law, []).append(record)
    for first, *others in by_law.values():
        plain(console, "")
        plain(console, first.reason)
        for other in others:
            case = (other.case or other.reason).replace("\n", "; ")
            plain(console, f"  also in {other.dtype} on {other.device}: {case}")
            if other.folder:
                plain(console, f"    kept: {near(Path(other.folder))}")


def _verdict_line(report: Report) -> str:
    ran = [r for r in report.laws if r.status in ("passed", "failed")]
    examples = sum(r.examples for r in ran)
    known = sum(r.status == "known" for r in report.laws)
    if report.verdict == "sound":
        but = f", but for {known} known not to hold" if known else ""
        return f"\nSOUND: {report.implementation} keeps all {len(ran)} laws{but} ({examples} examples)"
    if report.verdict == "broken":
        names = ", ".join(dict.fromkeys(r.law for r in report.broken()))
        return f"\nBROKEN: {report.implementation} breaks {names}"
    return (
        f"\nCOULD NOT BE CHECKED: {report.implementation}: {len(report.unfinished())} laws that its"
        f" contract implies were not run"
    )

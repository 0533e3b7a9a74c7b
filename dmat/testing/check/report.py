"""The report of a check: turns records into one verdict per implementation, as a table and as JSON.

The JSON is a Report; its schema is report.schema.json in this folder. Verdict "sound": every law that the
contract implies was run and held. "broken": a law does not hold. "error": no law is broken, but some law that
the contract implies was not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmat.testing.check.coverage import covered, untried
from dmat.testing.check.plan import Plan
from dmat.testing.interpret.choice import caveat
from dmat.testing.output import in_places, output_path, plain, written
from dmat.testing.record import LawRecord, Record, Report, Tried, Unreached, text_of

OF_A_PART = ("status", "reason", "promised", "uncallable", "case", "recipe", "folder", "ended")


NOT_REACHED = "not reached: the run stopped before it was done"


def gather(records: Iterable[Record], plan: Plan, *, first: bool = False) -> list[Report]:
    """Return one report per implementation from the records of a run.

    Each law x implementation x dtype x device of the plan gets a record, "not run" if the run made none.
    first: the run stops at the first broken law. The laws that a broken implementation did not reach then
    count as not promised, so that they are no error.
    """
    came: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in records:
        key = record.law, record.implementation, record.dtype, record.device
        came.setdefault(key, {})[record.part] = record
    reports = []
    contracts = {subject.implementation: subject.contract for subject in plan.subjects}
    kinds = {subject.implementation: subject.kind for subject in plan.subjects}
    for name, contract in contracts.items():
        sites = [(s.dtype, s.device) for s in plan.subjects if s.implementation == name]
        keys = [(law, name, *site) for law in plan.laws[kinds[name]] for site in sites]
        judged = [_record(key, came.get(key, {})) for key in keys]
        if first and any(r.status == "failed" for r in judged):
            judged = [replace(r, promised=False) if isinstance(r, Unreached) else r for r in judged]
        tried = Tried()
        for record in (record for key in keys for record in came.get(key, {}).values()):
            tried.add(record.tried)
        reports.append(Report.of(name, contract, judged, tried))
    return reports


def _record(key: tuple[str, str, str, str], parts: dict[str, Record]) -> LawRecord:
    """Merge the records of a law's parts into one. The worst status decides; "passed" needs all parts."""
    law, implementation, dtype, device = key
    came = list(parts.values())
    sums: dict[str, Any] = {
        "examples": sum(r.examples for r in came),
        "sequences": sum(r.sequences for r in came),
        "worst": max((r.worst for r in came if r.worst is not None), default=None),
        "seconds": round(sum(r.seconds for r in came), 3),
    }
    for status in ("failed", "not run", "known", "passed"):
        for r in came:
            whole = "all" in parts or {"ladder", "search"} <= set(parts)
            if r.status == status and (status != "passed" or whole):
                return LawRecord(law, implementation, dtype, device, **_of_a_part(r), **sums)
    return Unreached(law, implementation, dtype, device, reason=NOT_REACHED, **sums)


def _of_a_part(record: Record) -> dict[str, Any]:
    """Return the fields that a law's record takes from the record of the deciding part."""
    return {name: getattr(record, name) for name in OF_A_PART}


def exit_code(reports: Sequence[Report]) -> int:
    """Return 0 if every law held, 1 if a law is broken, else 2: some law could not be checked."""
    verdicts = {report.verdict for report in reports}
    return 1 if "broken" in verdicts else 2 if "error" in verdicts or not verdicts else 0


def write_json(reports: Sequence[Report], file: Path) -> None:
    """Write the file atomically: one report as a JSON object, several as a list."""
    written(text_of(reports[0] if len(reports) == 1 else list(reports), indent=2), file)


def show(report: Report, console: Console) -> None:
    """Print the matrix law x dtype, each broken law with its smallest case, and the verdict.

    A target that cannot be called in any dtype gets one line instead. If it cannot be called in some dtypes,
    one line names these dtypes.
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
    unreached = sum(isinstance(r, Unreached) for r in report.laws)
    lines = [*_grouped(reasons), *(() if unreached or report.verdict == "sound" else untried(report))]
    if lines:
        console.print("not run, with the reason:", style="dim")
        for reason in lines:
            console.print(f"  {reason}", style="dim", markup=False, highlight=False)
    if uncallable:
        plain(console, f"not run: {in_places(uncallable)}: {next(iter(uncallable.values()))}")
    if unreached:
        plain(console, f"{unreached} checks not reached: the run stopped before")
    for record in [r for r in report.unfinished() if not isinstance(r, Unreached)]:
        plain(console, f"not run: {record.law} ({record.dtype}): {record.reason}")
    for record in [r for r in report.laws if r.status == "known"]:
        plain(console, f"known: {record.law} ({record.dtype}): {record.reason}")
    _show_broken(report, console)
    plain(console, _verdict_line(whole))
    for line in covered(whole) if whole.verdict == "sound" else ():
        plain(console, f"  {line}")
    _show_rest(whole, console)


def _show_rest(report: Report, console: Console) -> None:
    if report.interpreter is not None:
        plain(console, caveat(report.interpreter))
    for line in _wider(report):
        plain(console, line)


def _wider(report: Report) -> list[str]:
    """Return the lines that say whether a wider contract admits the implementation, or it has a bug."""
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
    """Return one line per reason, with the laws that were not run for this reason."""
    by_reason: dict[str, list[str]] = {}
    for reason in reasons:
        law, _, why = reason.partition(": ")
        by_reason.setdefault(why, []).append(law)
    return [f"{why}: {', '.join(names)}" for why, names in by_reason.items()]


def _matrix(report: Report) -> Table:
    """Return the table: one row per law, one column per dtype and device.

    A number in a cell is the worst error divided by its bound.
    """
    sites = list(dict.fromkeys((r.dtype, r.device) for r in report.laws))
    many = len({device for _, device in sites}) > 1
    table = Table(title=Text(report.implementation), title_justify="left", box=None, pad_edge=False)
    table.add_column("law", no_wrap=True)
    for dtype, device in sites:
        table.add_column(f"{dtype} {device}" if many else dtype, justify="right", no_wrap=True)
    cells = {(r.law, r.dtype, r.device): r for r in report.laws}
    for law in dict.fromkeys(r.law for r in report.laws if not isinstance(r, Unreached)):
        table.add_row(law, *(_cell(cells[law, *site]) for site in sites))
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
    """Print the message of each broken law for one dtype, and only the case for its other dtypes."""
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
                plain(console, f"    kept: {output_path(Path(other.folder))}")


def _verdict_line(report: Report) -> str:
    ran = [r for r in report.laws if r.status in ("passed", "failed")]
    examples, sequences = sum(r.examples for r in ran), sum(r.sequences for r in ran)
    known = sum(r.status == "known" for r in report.laws)
    if report.verdict == "sound":
        but = f", but for {known} known not to hold" if known else ""
        tried = f"{examples} examples, {sequences} gate sequences"
        return f"\nSOUND: {report.implementation} keeps all {len(ran)} laws{but} ({tried})"
    if report.verdict == "broken":
        names = ", ".join(dict.fromkeys(r.law for r in report.broken()))
        return f"\nBROKEN: {report.implementation} breaks {names}"
    return (
        f"\nCOULD NOT BE CHECKED: {report.implementation}: {len(report.unfinished())} laws that its"
        f" contract implies were not run"
    )

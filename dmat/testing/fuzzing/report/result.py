"""Make the report of a run from its sums."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from msgspec.structs import replace

from dmat.testing.fuzzing.log import Request
from dmat.testing.fuzzing.messages import COUNTEREXAMPLES, Layout, PlannedCell
from dmat.testing.fuzzing.report.entries import (
    AlsoEntry,
    CellEntry,
    CellStatus,
    EventEntry,
    FindingEntry,
    FuzzReport,
    ImplementationEntry,
    LawEntry,
)
from dmat.testing.fuzzing.tally import Finding, Sum
from dmat.testing.interpret.choice import interpreter_record
from dmat.testing.output import output_path
from dmat.testing.record import Broken, CauseEntry, LawRecord, Report

EXITS = {"nothing found": 0, "found": 1, "did not fuzz": 2}


def untried(total: Sum) -> str:
    """Return in one line why the run did not really fuzz, or "".

    Some implementation had no example, so that "nothing found" would be misleading.
    """
    counts: dict[str, int] = {}
    for cell, tally in total.tallies.items():
        counts[cell.implementation] = counts.get(cell.implementation, 0) + tally.examples
    for implementation, examples in counts.items():
        if not examples:
            tallies = [t for c, t in total.tallies.items() if c.implementation == implementation]
            uncallable = next((t.trouble for t in tallies if t.uncallable), None)
            if uncallable is not None:
                return f"{implementation} {uncallable}"
            why = next((t.trouble for t in tallies if t.trouble), "the run ended before its first example")
            return f"{implementation}: no example ran: {why}"
    return "" if counts else "no example ran: there is nothing to try"


def result(
    total: Sum, asked: Request, layout: Layout, folder: Path, shared: Path, *, sittings: int, processes: int
) -> FuzzReport:
    """Make the report.

    folder: folder of the run. shared: folder that contains the counterexamples. sittings: number of sittings.
    processes: number of processes that ran turns.
    """
    reason = "" if total.findings else untried(total)
    seconds = round(total.elapsed, 1)
    return FuzzReport(
        verdict="found" if total.findings else "did not fuzz" if reason else "nothing found",
        reason=reason,
        command=asked.command,
        started=asked.started,
        asked_seconds=asked.seconds,
        seconds=seconds,
        sittings=sittings,
        seed=asked.seed,
        processes=processes,
        machine=layout.machine,
        versions=layout.versions,
        interpreter=interpreter_record(),
        examples=total.examples,
        per_second=round(total.examples / max(seconds, 0.1), 1),
        implementations=[ImplementationEntry(n, c) for n, c in layout.contracts.items()],
        laws=[LawEntry(name, text) for name, text in layout.statements.items()],
        cells=[_cell(total, planned) for planned in total.cells.values()],
        findings=[_finding(finding, folder, shared) for finding in total.findings],
        causes=[],
        events=[EventEntry(round(after, 1), what) for after, what in total.events],
    )


def _cell(total: Sum, planned: PlannedCell) -> CellEntry:
    cell, tally = planned.cell, total.tallies[planned.cell]
    status, reason = _status(total, planned)
    return CellEntry(
        cell.law,
        cell.implementation,
        cell.dtype,
        cell.device,
        status,
        reason,
        turns=tally.turns,
        examples=tally.examples,
        refused=tally.refused,
        out_of_memory=tally.out_of_memory,
        seconds=round(tally.spent, 2),
        worst=tally.worst,
        worst_case=tally.worst_case,
        worst_recipe=tally.worst_recipe,
        drawn=dict(tally.drawn),
    )


def _status(total: Sum, planned: PlannedCell) -> tuple[CellStatus, str]:
    tally = total.tallies[planned.cell]
    if planned.reason:
        return ("known" if planned.known else "not run"), planned.reason
    if tally.symptoms:
        first = total.findings[min(tally.symptoms.values())].found.cell
        return "broken", f"{first.law}, {first.dtype} on {first.device}: {'; '.join(tally.symptoms)}"
    if tally.trouble:
        return "not run", tally.trouble
    if not tally.examples:
        return "not reached", "the run ended before"
    if tally.refused == tally.examples:
        return "not run", "it refuses every case"
    return "held", ""


def _finding(finding: Finding, folder: Path, shared: Path) -> FindingEntry:
    found, cell = finding.found, finding.found.cell
    home = None if found.folder is None else shared / COUNTEREXAMPLES / found.folder
    where = output_path(home or folder)
    return FindingEntry(
        cell.law,
        cell.implementation,
        cell.dtype,
        cell.device,
        found.ended,
        found.reproducible,
        found.message,
        found.case,
        found.recipe,
        folder=os.path.relpath(home, folder) if home else None,
        replay=shlex.join(["dmat", "replay", str(where), "--impl", cell.implementation]),
        after_seconds=round(finding.after, 1),
        times=finding.times,
        also=[AlsoEntry(other.law, other.dtype, other.device) for other in finding.also],
    )


# The causes of the findings


def with_causes_of_findings(report: FuzzReport) -> FuzzReport:
    """Return the report with the causes of its findings, each implementation's searched by itself."""
    from dmat.testing.causes.search import with_causes

    causes: list[CauseEntry] = []
    for implementation in report.implementations:
        findings = [one for one in report.findings if one.implementation == implementation.name]
        if findings:
            fallen = Report.of(implementation.name, implementation.contract, list(map(_record, findings)))
            found = with_causes(replace(fallen, interpreter=report.interpreter), None).causes
            causes += [_with_all_breaks(cause, findings) for cause in found]
    return replace(report, causes=causes)


def _record(finding: FindingEntry) -> LawRecord:
    return LawRecord(
        finding.law,
        finding.implementation,
        finding.dtype,
        finding.device,
        "failed",
        finding.message,
        case=finding.case,
        recipe=finding.recipe,
        folder=finding.folder,
        ended=finding.ended,
    )


def _with_all_breaks(cause: CauseEntry, findings: list[FindingEntry]) -> CauseEntry:
    """Return the cause with all that its findings break."""
    own = {(one.law, one.dtype, one.device) for one in cause.breaks}
    of = [finding for finding in findings if (finding.law, finding.dtype, finding.device) in own]
    also = [Broken(other.law, other.dtype, other.device) for finding in of for other in finding.also]
    return replace(
        cause, breaks=list({(b.law, b.dtype, b.device): b for b in [*cause.breaks, *also]}.values())
    )

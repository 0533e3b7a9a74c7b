"""The report of a check: turns records into one verdict per implementation, and writes the JSON.

The JSON is a Report; its schema is report.schema.json in this folder. Verdict "sound": every law that the
contract implies was run and held. "broken": a law does not hold. "error": no law is broken, but some law that
the contract implies was not run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dmat.testing.check.plan import Plan
from dmat.testing.output import written
from dmat.testing.record import LawRecord, Record, Report, Tried, Unreached, text_of

OF_A_PART = ("status", "reason", "promised", "uncallable", "case", "recipe", "folder", "ended", "gates")


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
        drawn = [record for key in keys for record in came.get(key, {}).values()]
        tried = Tried()
        for record in drawn:
            tried.add(record.tried)
        reports.append(replace(Report.of(name, contract, judged, tried), regimes=_regimes(drawn)))
    return reports


def _regimes(records: Iterable[Record]) -> dict[str, int]:
    """Return how many different gate sequences of each regime were tried."""
    counts: Counter[str] = Counter()
    for record in records:
        for drawn, count in record.drawn.items():
            counts[drawn.partition(", ")[0]] += count
    return dict(sorted(counts.items()))


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

"""What the compiled launches of an interpreted kernel say of its contract, as a part of its report.

The interpreter cannot see in what format a device multiplies. So the launches are compiled for GPUs that are
not there: docs/inspect.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from dmat.testing.causes.known import UNKNOWN
from dmat.testing.check.plan import Plan, Request
from dmat.testing.errors import CannotRun
from dmat.testing.inspect.inspected import inspected
from dmat.testing.inspect.machines import Machine, machines_named
from dmat.testing.output import progress
from dmat.testing.record import Broken, CauseEntry, Contradiction, LawRecord, OnDevices, Report

LAW = "machine_code"  # the name under which its findings stand among the laws
DEFAULT = ("sm_80", "sm_90")
# What would have to be promised instead, by the promise that is not kept.
WEAKER: dict[str, dict[str, Any]] = {
    "multiplies_in": {"multiplies_in": "input"},
    "accumulates_in": {"accumulates_in": {"float16": "float16"}},
    "deterministic": {"deterministic": False},
}


def with_compiled(report: Report, plan: Plan, request: Request) -> Report:
    """Compile the launches of an interpreted kernel, and return the report with what that shows.

    Without named architectures the launches are compiled to TTIR alone, which says all of formats. A kernel
    that cannot be called, and one that --first found broken, is left alone.
    """
    if report.interpreter is None or not report.only_callable().laws:
        return report
    if request.first and report.verdict == "broken":
        return report
    machines = machines_named(request.archs or DEFAULT)
    progress("compiling its launches")
    try:
        return _inspected(report, plan, machines, named=bool(request.archs))
    except CannotRun as error:
        return replace(report, compiled=OnDevices([machine.name for machine in machines], reason=str(error)))
    finally:
        progress("")


def _inspected(report: Report, plan: Plan, machines: Sequence[Machine], *, named: bool) -> Report:
    dtypes = [s.dtype for s in plan.subjects if s.implementation == report.implementation]
    found = inspected(
        report.implementation, machines, named=named, dtypes=list(dict.fromkeys(dtypes)), code=named
    )
    compiled = OnDevices(found.archs, found.contradictions, found.notes)
    if not found.contradictions:
        return replace(report, compiled=compiled)
    records = _records(report.implementation, found.contradictions)
    causes = [_cause(one, records) for one in found.contradictions]
    return replace(
        report,
        verdict="broken",
        laws=[*report.laws, *records.values()],
        causes=[*report.causes, *causes],
        compiled=compiled,
    )


def _records(implementation: str, findings: Sequence[Contradiction]) -> dict[str, LawRecord]:
    """Return a failed record for each dtype that a finding has."""
    messages: dict[str, list[str]] = {}
    for one in findings:
        for dtype in one.dtypes:
            messages.setdefault(dtype, []).append(f"{LAW}: {one.message}")
    return {
        dtype: LawRecord(LAW, implementation, dtype, "cpu", "failed", "\n".join(lines), ended="broken")
        for dtype, lines in messages.items()
    }


def _cause(one: Contradiction, records: dict[str, LawRecord]) -> CauseEntry:
    """Return the cause that a finding is: a promise that is not kept, or a bug."""
    weaker = WEAKER.get(one.promise, {})
    return CauseEntry(
        kind="promise" if weaker else "bug",
        sentence=f"The compiled code: {one.message}.",
        promises=weaker,
        gates=UNKNOWN,
        law=LAW,
        dtype=one.dtypes[0],
        device="cpu",
        ended="broken",
        message="",
        case=None,
        recipe=None,
        folder=None,
        breaks=[Broken(LAW, dtype, "cpu") for dtype in one.dtypes],
    )

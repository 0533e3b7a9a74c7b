"""From a request to a verdict: try the laws, look for a wider contract and for the causes, keep the folders.

The command and dmat.check both judge by this module. It loads no torch: what tries a kernel is called by
`run`, in a process of its own or in this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from dmat.testing.causes.known import FIRST, unsorted
from dmat.testing.check.compiled import LAW, with_compiled
from dmat.testing.check.plan import Plan, PlannedSubject, Request
from dmat.testing.check.report import gather
from dmat.testing.contract.names import FUSED
from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import interpreter_record
from dmat.testing.output import progress
from dmat.testing.processes import Run, apart
from dmat.testing.record import Record, Report

WITHOUT_END = float("inf")  # seconds
Tried = Callable[[Request], tuple[Plan, list[Record]]]


def judged(
    request: Request, tried: Tried, run: Run = apart, end: float = WITHOUT_END, *, wider: bool = True
) -> tuple[list[Report], Plan]:
    """Try the laws. Return one report per implementation, with its causes, and the plan of the check.

    tried: tries the laws. run: calls what tries the kernel afterwards. end: the time.monotonic() at which the
    searches for a wider contract and for causes end. wider: whether to look for a wider contract. Raises
    CannotRun if nothing can be checked.
    """
    plan, records = tried(request)
    if plan.error:
        raise CannotRun(plan.error)
    interpreter, gathered = interpreter_record(), gather(records, plan, first=request.first)
    reports = [replace(report, interpreter=interpreter, seed=request.seed) for report in gathered]
    if request.first:
        reports = [_with_first_cause(report) for report in reports]
    else:
        if wider:
            reports = [with_wider_contract(report, plan.subjects, run, end) for report in reports]
        reports = [with_sorted_causes(report, request.counterexamples, run, end) for report in reports]
    if interpreter is not None:
        plan = replace(plan, families={**plan.families, LAW: "compiled"})
    return [with_compiled(report, plan, request) for report in reports], plan


def _with_first_cause(report: Report) -> Report:
    """Return the report with the law that --first found as its only cause."""
    broken = report.broken()
    return replace(report, causes=[unsorted(broken, FIRST)]) if broken else report


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())


def _open_to_less(subjects: Sequence[PlannedSubject], name: str) -> bool:
    """Whether to search for a wider contract: for D~ kernels with a bare contract, and for all fused kernels.

    A D~ contract is bare if it states nothing, or only gate_layout, which promises nothing. Every fused
    kernel leaves some promise at its default.
    """
    planned = next(subject for subject in subjects if subject.implementation == name)
    return planned.kind == FUSED or planned.contract.keys() <= {"gate_layout"}


def with_wider_contract(
    report: Report, subjects: Sequence[PlannedSubject], run: Run = apart, end: float = WITHOUT_END
) -> Report:
    """Search for a wider contract if a law is broken, and return the report with the result.

    A kernel that could not be checked may have promised too many lengths. Its report gets the result only if
    a wider contract was found. In Triton's interpreter the search would take too long and is skipped.
    """
    if report.verdict == "sound" or report.interpreter or not _open_to_less(subjects, report.implementation):
        return report
    from dmat.testing.relax.search import SECONDS, stands_under

    seconds = min(SECONDS, _left(end))
    progress(f"looking for a wider contract (at most {seconds:.0f} s)")
    sites = [(s.dtype, s.device) for s in subjects if s.implementation == report.implementation]
    found = stands_under(report, sites, seconds, run)
    progress("")
    known = report.verdict == "broken" or found.outcome == "found"
    return replace(report, stands_under=found) if known else report


def with_sorted_causes(
    report: Report, folder: Path | None, run: Run = apart, end: float = WITHOUT_END
) -> Report:
    """Return the report of a broken kernel with the causes of its failures."""
    if report.verdict != "broken":
        return report
    from dmat.testing.causes.message import with_causes_told

    progress("looking for the causes")
    found = with_causes_told(report, folder, run, _left(end))
    progress("")
    return found


def with_kept_folders(report: Report, run: Run = apart) -> Report:
    """Keep one folder for each cause, and return the report with the folders."""
    if not any(cause.folder for cause in report.causes):
        return report
    from dmat.testing.causes.keep import with_folders

    progress("keeping a counterexample for each cause")
    kept = with_folders(report, run)
    progress("")
    return kept

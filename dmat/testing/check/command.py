"""The command `dmat check`: try the laws in worker processes, and turn their records into a verdict.

No pytest takes part: docs/decisions/0004-how-check-runs.md.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console

from dmat.testing.causes.known import FIRST, unsorted
from dmat.testing.check.page import show
from dmat.testing.check.plan import Plan, PlannedSubject, Request
from dmat.testing.check.report import exit_code, gather, write_json
from dmat.testing.check.workers import Workers
from dmat.testing.contract.names import FUSED, require_known
from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import EXAMPLES as INTERPRETED
from dmat.testing.interpret.choice import config_index, interpreter_record
from dmat.testing.output import progress
from dmat.testing.record import Report

EXAMPLES = 200  # random cases per law and dtype, after the cases of its ladder


def check(options: argparse.Namespace) -> list[Report]:
    """Check the targets of the options. Return one report per implementation.

    Raises CannotRun if nothing can be checked.
    """
    return _checked(options)[0]


def _checked(options: argparse.Namespace) -> tuple[list[Report], Plan]:
    """Return one report per implementation, and the plan of the check."""
    require_known(options.targets, options.device, options.dtype)
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        number = options.n or (1 if options.first else os.cpu_count() or 1)
        request = requested(options, Path(folder))
        plan, records = Workers(request).run(number)
    if plan.error:
        raise CannotRun(plan.error)
    interpreter, gathered = interpreter_record(), gather(records, plan, first=options.first)
    reports = [replace(report, interpreter=interpreter, seed=request.seed) for report in gathered]
    if options.first:
        return [_with_first_cause(report) for report in reports], plan
    wider = [with_wider_contract(report, plan.subjects) for report in reports]
    return [with_sorted_causes(report, request.counterexamples) for report in wider], plan


def _with_first_cause(report: Report) -> Report:
    """Return the report with the law that --first found as its only cause."""
    broken = report.broken()
    return replace(report, causes=[unsorted(broken, FIRST)]) if broken else report


def with_sorted_causes(report: Report, folder: Path | None) -> Report:
    """Return the report of a broken kernel with the causes of its failures."""
    if report.verdict != "broken":
        return report
    from dmat.testing.causes.message import with_causes_told

    progress("looking for the causes")
    found = with_causes_told(report, folder)
    progress("")
    return found


def _with_folders(report: Report) -> Report:
    """Keep one folder for each cause, and return the report with the folders."""
    if not any(cause.folder for cause in report.causes):
        return report
    from dmat.testing.causes.keep import with_folders

    progress("keeping a counterexample for each cause")
    kept = with_folders(report)
    progress("")
    return kept


def requested(options: argparse.Namespace, folder: Path) -> Request:
    """Return the request of these options, with absolute paths. folder: for journals and claims."""
    return Request(
        options.targets,
        options.device,
        options.dtype,
        options.examples or (EXAMPLES if config_index() is None else INTERPRETED),
        options.time_limit,
        [Path(corpus).resolve() for corpus in options.corpus],
        Path(options.counterexamples).resolve() if options.counterexamples else None,
        folder,
        first=options.first,
        shapes=tuple(options.shape),
        seed=secrets.randbelow(2**32) if options.seed is None else options.seed,
    )


def open_to_less(subjects: Sequence[PlannedSubject], name: str) -> bool:
    """Whether to search for a wider contract: for D~ kernels with a bare contract, and for all fused kernels.

    A D~ contract is bare if it states nothing, or only gate_layout, which promises nothing. Every fused
    kernel leaves some promise at its default.
    """
    planned = next(subject for subject in subjects if subject.implementation == name)
    return planned.kind == FUSED or planned.contract.keys() <= {"gate_layout"}


def with_wider_contract(report: Report, subjects: Sequence[PlannedSubject]) -> Report:
    """Search for a wider contract if a law is broken, and return the report with the result.

    A kernel that could not be checked may have promised too many lengths. Its report gets the result only if
    a wider contract was found. In Triton's interpreter the search would take too long and is skipped.
    """
    if report.verdict == "sound" or report.interpreter or not open_to_less(subjects, report.implementation):
        return report
    from dmat.testing.relax.search import SECONDS, stands_under

    progress(f"looking for a wider contract (at most {SECONDS:.0f} s)")
    sites = [(s.dtype, s.device) for s in subjects if s.implementation == report.implementation]
    found = stands_under(report, sites)
    progress("")
    known = report.verdict == "broken" or found.outcome == "found"
    return replace(report, stands_under=found) if known else report


def command(options: argparse.Namespace) -> int:
    """Check, print the reports, and return the exit code."""
    reports, plan = _checked(options)
    keeps = bool(options.counterexamples) and not options.first
    if keeps and options.verbose:  # its messages name the folders
        reports = list(map(_with_folders, reports))
    console = Console(emoji=False)  # a kernel may be called "sound", and :sound: is an emoji
    for number, report in enumerate(reports):
        if number:
            print()
        show(report, console, plan.families, verbose=options.verbose)
    if keeps and not options.verbose:
        reports = list(map(_with_folders, reports))
    unstated = [report for report in reports if not report.contract or "reads" in report.contract]
    if options.first and any(report.verdict == "broken" for report in unstated):
        print("Without --first, dmat check looks for a wider contract under which it stands.")
    if options.json is not None:
        write_json(reports, options.json)
    return exit_code(reports)

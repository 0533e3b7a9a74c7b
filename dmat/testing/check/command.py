"""The command `dmat check`: run the laws with pytest, and turn their records into a verdict.

pytest ignores the user's own configuration: docs/decisions/0004-how-check-runs-pytest.md.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from dmat.testing.check.plan import Plan, PlannedSubject
from dmat.testing.check.report import exit_code, gather, show, write_json
from dmat.testing.contract.names import FUSED, require_known
from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import EXAMPLES as INTERPRETED
from dmat.testing.interpret.choice import config_index, interpreter_record
from dmat.testing.record import Report

EXAMPLES = 200  # random cases per law and dtype, after about 70 cases of its ladder


class NothingRun(CannotRun):
    """pytest ran no law. The message is one line."""


def check(options: argparse.Namespace) -> list[Report]:
    """Check the targets of the options. Return one report per implementation.

    Raises CannotRun if nothing can be checked, and NothingRun if pytest ran no law.
    """
    require_known(options.targets, options.device, options.dtype)
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        plan, lines, printed, code = run_properties(options, Path(folder))
    if plan.error:
        raise CannotRun(plan.error)
    if not lines:
        last = [line for line in printed.strip().splitlines() if line.strip()][-1:]
        raise NothingRun(f"no law was run; pytest ended with {code}: {' '.join(last)}")
    reports = [replace(r, interpreter=interpreter_record()) for r in gather(lines, plan, first=options.first)]
    return reports if options.first else [with_wider_contract(report, plan.subjects) for report in reports]


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

    if sys.stderr.isatty():
        sys.stderr.write(f"\rlooking for a wider contract (at most {SECONDS:.0f} s) ")
    sites = [(s.dtype, s.device) for s in subjects if s.implementation == report.implementation]
    found = stands_under(report, sites)
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 50 + "\r")
    known = report.verdict == "broken" or found.outcome == "found"
    return replace(report, stands_under=found) if known else report


class Stillborn:
    """Ends the run if a worker crashes before the plan is written: its replacement would crash too."""

    def __init__(self, plan: Path) -> None:
        """Store the path of the plan file."""
        self.plan = plan

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        """Write a plan with the error, and raise UsageError."""
        if error and not self.plan.exists():
            Plan(error="the process died while the targets were imported").write(self.plan)
            raise pytest.UsageError("no plan")


class Progress:
    """Shows on a terminal how many checks are done."""

    def __init__(self, plan: Path) -> None:
        """Store the path of the plan file, which gives the number of checks."""
        self.plan, self.total, self.done = plan, 0, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Rewrite the progress line."""
        if report.when == "call":
            if not self.total:
                plan = Plan.read(self.plan)
                self.total = sum(len(plan.laws[subject.kind]) for subject in plan.subjects)
            self.done += 1
            sys.__stderr__.write(f"\r{self.done} of {self.total} checks done ")  # type: ignore[union-attr]
            sys.__stderr__.flush()  # type: ignore[union-attr]


def run_properties(options: argparse.Namespace, folder: Path) -> tuple[Plan, list[str], str, int]:
    """Run the laws in pytest. Return the plan, the JSON lines of the records, pytest's output, its exit code.

    This process does not load torch, which takes two seconds. It does not load a target either, because a
    target may crash the process. The workers load both, and one worker writes the plan. Hypothesis stores its
    database in `folder`, not in the user's folder.
    """
    report, plan = folder / "records.jsonl", folder / "plan.json"
    arguments = pytest_arguments(options, report, folder)
    plugins = [Stillborn(plan), *([Progress(plan)] if sys.stderr.isatty() else [])]
    printed = io.StringIO()
    with environment_of(folder), redirect_stdout(printed), redirect_stderr(printed):
        code = int(pytest.main(arguments, plugins=plugins))
    if len(plugins) > 1:
        sys.stderr.write("\r" + " " * 40 + "\r")
    lines = report.read_text().splitlines() if report.exists() else []
    return Plan.read(plan) if plan.exists() else Plan(), lines, printed.getvalue(), code


@contextmanager
def environment_of(folder: Path) -> Iterator[None]:
    """Set the environment variables of the run and its workers. Restore the environment afterwards."""
    before = dict(os.environ)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the user's other plugins may reorder or rerun tests
    os.environ.pop("PYTEST_ADDOPTS", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def pytest_arguments(options: argparse.Namespace, report: Path, folder: Path) -> list[str]:
    """Return pytest's command line for these options."""
    here = Path(__file__).parent
    arguments = ["-q", "-c", str(here / "check.ini"), "--rootdir", str(folder), "--noconftest"]
    arguments += ["-p", "no:cacheprovider", "-p", "no:faulthandler"]
    arguments += ["-p", "_hypothesis_pytestplugin", "-p", "dmat.testing.plugin"]
    arguments += ["--no-summary"]  # the summary is not shown, and its table of examples loads torch
    arguments += ["--hypothesis-profile", "default", "--dmat-report", str(report)]
    arguments += ["--dmat-plan", str(report.with_name("plan.json"))]
    examples = options.examples or (EXAMPLES if config_index() is None else INTERPRETED)
    arguments += ["--dmat-examples", str(examples)]
    arguments += ["--dmat-time-limit", str(options.time_limit)]
    kept = str(Path(options.counterexamples).resolve()) if options.counterexamples else ""
    arguments += ["--dmat-counterexamples", kept]
    for option, values in (
        ("--dmat-corpus", [str(Path(folder).resolve()) for folder in options.corpus]),
        ("--dmat-impl", options.targets),
        ("--dmat-device", options.device),
        ("--dmat-dtype", options.dtype),
    ):
        for value in values:
            arguments += [option, value]
    if options.first:
        arguments += ["--dmat-first"]
    # Use workers even for one process: a kernel that kills its process must not kill this process.
    workers = options.n or (1 if options.first else os.cpu_count() or 1)
    arguments += ["-p", "xdist.plugin", "-n", str(workers)]
    restarts = "0" if options.first else "100000"  # each law may kill a worker; --first stops then
    arguments += ["--max-worker-restart", restarts]
    in_order = ["--dist", "load", "--maxschedchunk", "1"]
    arguments += in_order if options.first else ["--dist", "worksteal"]
    return [*arguments, "--pyargs", "dmat.properties"]


def command(options: argparse.Namespace) -> int:
    """Check, print the reports, and return the exit code."""
    reports = check(options)
    console = Console(emoji=False)  # a kernel may be called "sound", and :sound: is an emoji
    for report in reports:
        show(report, console)
    unstated = [report for report in reports if not report.contract or "reads" in report.contract]
    if options.first and any(report.verdict == "broken" for report in unstated):
        print("Without --first, dmat check looks for a wider contract under which it stands.")
    if options.json is not None:
        write_json(reports, options.json)
    return exit_code(reports)

"""The command `dmat check`: the properties through pytest, in this environment, their records to a verdict.

pytest runs under none of the user's configuration: docs/decisions/0004-how-check-runs-pytest.md.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from dmat.testing.cannot import CannotRun

if TYPE_CHECKING:  # torch takes two seconds to load: the workers are told to begin before this process does
    from dmat.testing.report import Report
    from dmat.testing.select import Chosen

EXAMPLES = 200  # random cases a law and dtype, after some 70 of its ladder


class NothingRun(CannotRun):
    """pytest came to no law; its text is one line."""


def check(options: argparse.Namespace) -> list[Report]:
    """Check what the options name, and return a report an implementation."""
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        chosen, lines, printed, code = run_properties(options, Path(folder))
    if not lines:
        last = [line for line in printed.strip().splitlines() if line.strip()][-1:]
        raise NothingRun(f"no law was run; pytest ended with {code}: {' '.join(last)}")
    from dmat.testing.report import gather

    reports = gather(lines, chosen, first=options.first)
    return reports if options.first else [with_wider_contract(report, chosen) for report in reports]


def bare(chosen: Sequence[Chosen], name: str) -> bool:
    """Whether this implementation states no promise; a layout of its gates is none."""
    contract = next(i.contract for i, _, _ in chosen if i.name == name)
    return contract.stated().keys() <= {"gate_layout"}


def with_wider_contract(report: Report, chosen: Sequence[Chosen]) -> Report:
    """Return the report of a bare function that falls with the wider contract under which it stands.

    One that could not be checked gets one if it is found, for it may have promised too many lengths.
    """
    if report.verdict == "sound" or not bare(chosen, report.implementation):
        return report
    from dmat.testing.relax import SECONDS, stands_under

    if sys.stderr.isatty():
        sys.stderr.write(f"\rlooking for a wider contract (at most {SECONDS:.0f} s) ")
    places = [(dtype, device) for i, dtype, device in chosen if i.name == report.implementation]
    found = stands_under(report, places)
    if sys.stderr.isatty():
        sys.stderr.write("\r" + " " * 50 + "\r")
    known = report.verdict == "broken" or found["outcome"] == "found"
    return replace(report, stands_under=found) if known else report


class Choice:
    """What is to be checked, found in this process while the workers start: each loads torch for itself."""

    def __init__(self, options: argparse.Namespace, out: TextIO, err: TextIO) -> None:
        """Choose by these options; what a target prints when it is imported goes to `out` and `err`."""
        self.options, self.out, self.err = options, out, err
        self.chosen: list[Chosen] = []
        self.error: CannotRun | None = None
        self.laws = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Choose, and read the corpus; end the run where that cannot be done."""
        with self.uncaptured(session.config), redirect_stdout(self.out), redirect_stderr(self.err):
            try:
                self.choose()
            except CannotRun as error:
                self.error = error
        if self.error is not None:
            manager: Any = session.config.pluginmanager.getplugin("dsession")
            manager.nodemanager.group.terminate(timeout=0)  # they would else load torch to the end
            raise pytest.UsageError(str(self.error))

    def choose(self) -> None:
        """Set what is chosen. SelectionError, TargetError, CorpusError say why it cannot be run."""
        from dmat.testing.corpus import current
        from dmat.testing.report import laws
        from dmat.testing.select import select

        self.laws = len(laws())
        self.chosen = select(self.options.targets, self.options.device, self.options.dtype)
        current(Path(self.options.corpus), self.chosen)

    @contextmanager
    def uncaptured(self, config: pytest.Config) -> Iterator[None]:
        """Let what is printed pass by pytest."""
        capture: Any = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            yield


class Progress:
    """Shows on a terminal how many laws are done."""

    def __init__(self, choice: Choice) -> None:
        """Count the laws of this choice."""
        self.choice, self.done = choice, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Rewrite the line."""
        if report.when == "call":
            self.done += 1
            total = self.choice.laws * len(self.choice.chosen)
            sys.__stderr__.write(f"\r{self.done} of {total} checks done ")  # type: ignore[union-attr]
            sys.__stderr__.flush()  # type: ignore[union-attr]


def run_properties(options: argparse.Namespace, folder: Path) -> tuple[list[Chosen], list[str], str, int]:
    """Run the properties in pytest; return what was chosen, the records, what pytest printed, its exit code.

    What Hypothesis would keep between runs goes to `folder`, not into the user's own. Raises what the choice
    raises.
    """
    report = folder / "records.jsonl"
    arguments = pytest_arguments(options, report, folder)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins of the user's may reorder, rerun
    os.environ.pop("PYTEST_ADDOPTS", None)
    choice = Choice(options, sys.stdout, sys.stderr)
    plugins = [choice, *([Progress(choice)] if sys.stderr.isatty() else [])]
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = int(pytest.main(arguments, plugins=plugins))
    if len(plugins) > 1:
        sys.stderr.write("\r" + " " * 40 + "\r")
    if choice.error is not None:
        raise choice.error
    lines = report.read_text().splitlines() if report.exists() else []
    return choice.chosen, lines, printed.getvalue(), code


def pytest_arguments(options: argparse.Namespace, report: Path, folder: Path) -> list[str]:
    """Return pytest's command line for these options."""
    here = Path(__file__).parent
    arguments = ["-q", "-c", str(here / "check.ini"), "--rootdir", str(folder), "--noconftest"]
    arguments += ["-p", "no:cacheprovider", "-p", "no:faulthandler"]
    arguments += ["-p", "_hypothesis_pytestplugin", "-p", "dmat.testing.plugin"]
    arguments += ["--hypothesis-profile", "default", "--dmat-report", str(report)]
    arguments += ["--dmat-examples", str(EXAMPLES)]
    arguments += ["--dmat-corpus", str(Path(options.corpus).resolve())]
    arguments += ["--dmat-time-limit", str(options.time_limit)]
    kept = str(Path(options.counterexamples).resolve()) if options.counterexamples else ""
    arguments += ["--dmat-counterexamples", kept]
    for option, values in (
        ("--dmat-impl", options.targets),
        ("--dmat-device", options.device),
        ("--dmat-dtype", options.dtype),
    ):
        for value in values:
            arguments += [option, value]
    if options.first:
        arguments += ["--dmat-first"]
    # Processes of their own, even for one: a kernel that kills its process must not take the verdict along.
    workers = options.n or (1 if options.first else os.cpu_count() or 1)
    arguments += ["-p", "xdist.plugin", "-n", str(workers)]
    restarts = "0" if options.first else "100000"  # each law may kill one; --first ends at a death
    arguments += ["--max-worker-restart", restarts]
    in_order = ["--dist", "load", "--maxschedchunk", "1"]
    arguments += in_order if options.first else ["--dist", "worksteal"]
    return [*arguments, "--pyargs", "dmat.properties"]

"""The command: `dmat check TARGET...`.

It runs the properties through pytest, in this environment but under none of the user's configuration,
and turns their records into a verdict: 0 every law held, 1 a law is broken, 2 could not be checked.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

import pytest

from dmat import __version__

COULD_NOT_CHECK = 2
EXAMPLES = 200  # random cases a law and dtype, after some 70 of its ladder


class CannotCheck(Exception):
    """Why nothing could be checked, in one line."""


class Parser(argparse.ArgumentParser):
    """argparse, but a bad option is one line and exit 2, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """Raise what main() prints."""
        raise CannotCheck(f"{message} (dmat check --help lists the options)")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = Parser(prog="dmat", description="Laws for kernels of the log-gate decay matrix D~.")
    top.add_argument("--version", action="version", version=f"dmat {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="try every law on an implementation",
        description="Try every law on each TARGET. Exit 0: every law held; 1: a law is broken; 2: could"
        " not be checked.",
    )
    check.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="package.module:function or path/to/file.py:function; none: the built-in implementations",
    )
    check.add_argument("--device", action="append", default=[], help="cpu or cuda; default: all")
    check.add_argument("--dtype", action="append", default=[], help="e.g. float32; default: all promised")
    check.add_argument("--first", action="store_true", help="stop at the first broken law, fastest first")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    check.add_argument(
        "-n",
        type=_count,
        metavar="N",
        help="processes; default: one a core, with --first one alone, so that its order holds",
    )
    return top


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of processes")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return check(parser().parse_args(arguments))
    except CannotCheck as error:
        print(f"dmat: {error}", file=sys.stderr)
        return COULD_NOT_CHECK
    except KeyboardInterrupt:
        print("dmat: interrupted", file=sys.stderr)
        return COULD_NOT_CHECK


def check(options: argparse.Namespace) -> int:
    """Check what the options name, print the reports, and return the exit code."""
    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise CannotCheck(f"--json is {str(options.json)!r}; there is no folder to write it in")

    from rich.console import Console

    from dmat.testing.report import exit_code, gather, laws, show, write_json
    from dmat.testing.select import SelectionError, select
    from dmat.testing.target import TargetError

    try:
        chosen = select(options.targets, options.device, options.dtype)
    except (SelectionError, TargetError) as error:
        raise CannotCheck(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        lines, printed, code = run_properties(options, Path(folder), len(laws()) * len(chosen))
    if not lines:
        last = [line for line in printed.strip().splitlines() if line.strip()][-1:]
        raise CannotCheck(f"no law was run; pytest ended with {code}: {' '.join(last)}")
    reports = gather(lines, chosen, first=options.first)
    console = Console(emoji=False)  # a kernel may be called "sound", and :sound: is an emoji
    for report in reports:
        show(report, console)
    if options.json is not None:
        write_json(reports, options.json)
    return exit_code(reports)


class Progress:
    """Shows on a terminal how many laws are done."""

    def __init__(self, total: int) -> None:
        """Count up to this many."""
        self.total, self.done = total, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Rewrite the line."""
        if report.when == "call":
            self.done += 1
            sys.__stderr__.write(f"\r{self.done} of {self.total} checks done ")  # type: ignore[union-attr]
            sys.__stderr__.flush()  # type: ignore[union-attr]


def run_properties(options: argparse.Namespace, folder: Path, total: int) -> tuple[list[str], str, int]:
    """Run the properties in pytest; return the records, what pytest printed, and its exit code.

    What Hypothesis would keep between runs goes to `folder`, not into the user's own. total: the number of
    laws to run, for the progress line.
    """
    report = folder / "records.jsonl"
    arguments = pytest_arguments(options, report, folder)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins of the user's may reorder, rerun
    os.environ.pop("PYTEST_ADDOPTS", None)
    plugins = [Progress(total)] if sys.stderr.isatty() else []
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = int(pytest.main(arguments, plugins=plugins))
    if plugins:
        sys.stderr.write("\r" + " " * 40 + "\r")
    lines = report.read_text().splitlines() if report.exists() else []
    return lines, printed.getvalue(), code


def pytest_arguments(options: argparse.Namespace, report: Path, folder: Path) -> list[str]:
    """Return pytest's command line for these options."""
    here = Path(__file__).parent
    arguments = ["-q", "-c", str(here / "check.ini"), "--rootdir", str(folder), "--noconftest"]
    arguments += ["-p", "no:cacheprovider"]
    arguments += ["-p", "_hypothesis_pytestplugin", "-p", "dmat.testing.plugin"]
    arguments += ["--hypothesis-profile", "default", "--dmat-report", str(report)]
    arguments += ["--dmat-examples", str(EXAMPLES)]
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


if __name__ == "__main__":
    sys.exit(main())

"""The command `dmat check`: try the laws in worker processes, print the page, and return the exit code.

No pytest takes part: docs/decisions/0004-how-check-runs.md.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from dmat.testing.check.gate import freeze, gate
from dmat.testing.check.github import add_to_summary, error_lines
from dmat.testing.check.judge import judged, with_kept_folders
from dmat.testing.check.junit import junit
from dmat.testing.check.page import show_all
from dmat.testing.check.plan import EXAMPLES, Plan, Request
from dmat.testing.check.report import exit_code, write_json
from dmat.testing.check.workers import Workers
from dmat.testing.contract.names import require_known
from dmat.testing.interpret.choice import EXAMPLES as INTERPRETED
from dmat.testing.interpret.choice import config_index
from dmat.testing.output import as_text, written
from dmat.testing.record import Report


def _checked(options: argparse.Namespace) -> tuple[list[Report], Plan]:
    """Return one report per implementation, and the plan. Raises CannotRun if nothing can be checked."""
    require_known(options.targets, options.device, options.dtype)
    with tempfile.TemporaryDirectory(prefix="dmat-") as folder:
        request = requested(options, Path(folder))
        return judged(request, lambda request: Workers(request).run(), wider=options.gate is None)


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
        processes=options.n or (1 if options.first else os.cpu_count() or 1),
        archs=tuple(options.arch or ()),
    )


def command(options: argparse.Namespace) -> int:
    """Check or freeze as the options say, and return the exit code."""
    if options.freeze is not None:
        return freeze(options)
    if options.gate is not None:
        return gate(options, shown)
    return exit_code(shown(options))


def shown(options: argparse.Namespace) -> list[Report]:
    """Check, print the reports, write the JSON, and return the reports."""
    reports, plan = _checked(options)
    keeps = bool(options.counterexamples) and not options.first
    if keeps and options.verbose:  # its messages name the folders
        reports = list(map(with_kept_folders, reports))
    show = partial(show_all, reports, families=plan.families, first=options.first, verbose=options.verbose)
    show(Console(emoji=False))  # a kernel may be called "sound", and :sound: is an emoji
    if options.github:
        add_to_summary(as_text(show))
        for line in error_lines(reports):
            print(line)
    if keeps and not options.verbose:
        reports = list(map(with_kept_folders, reports))
    if options.json is not None:
        write_json(reports, options.json)
    if options.junit is not None:
        written(junit(reports), options.junit)
    return reports

"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmat.testing.interpret.choice import TIME_LIMIT
from dmat.testing.values import to_names, to_number, to_seconds

SECONDS = 60.0  # default time limit of an example


def add_selection(command: argparse.ArgumentParser, otherwise: str) -> None:
    """Add TARGETs, --device and --dtype. otherwise: what is tried without a TARGET."""
    command.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"package.module:function or path/to/file.py:function; none: {otherwise}",
    )
    add_places(command)


def add_places(command: argparse.ArgumentParser) -> None:
    """Add --device and --dtype."""
    command.add_argument("--device", action="append", default=[], help="cpu, cuda, xpu, ...; default: all")
    command.add_argument("--dtype", action="append", default=[], help="e.g. float32; default: all promised")


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")


def add_corpus(command: argparse.ArgumentParser) -> None:
    """Add --corpus."""
    command.add_argument(
        "--corpus",
        action="append",
        default=[],
        metavar="DIR",
        help="cases tried first; more than once for several; default: corpus",
    )


def add_time_limit(command: argparse.ArgumentParser) -> None:
    """Add --time-limit."""
    limit = f"for a case; default: {SECONDS:.0f}, interpreted {TIME_LIMIT:.0f}"
    command.add_argument("--time-limit", type=to_seconds, metavar="SECONDS", help=limit)


def add_interpret(command: argparse.ArgumentParser) -> None:
    """Add --interpret and --config."""
    command.add_argument(
        "--interpret", action="store_true", help="run Triton kernels on the CPU; dmat[interpret]"
    )
    command.add_argument(
        "--config",
        type=to_number,
        metavar="N",
        help="interpreted: of autotuned kernels; default: 0, the first",
    )


def add_arch(command: argparse.ArgumentParser, default: str) -> None:
    """Add --arch. default: the architectures without it."""
    command.add_argument(
        "--arch", type=to_names, metavar="ARCH,...", help=f"e.g. sm_90,gfx942; default: {default}"
    )

"""The command `dmat inspect`: inspect TARGET, print the page, write the JSON, and return the exit code."""

from __future__ import annotations

import argparse

from rich.console import Console

from dmat.testing.inspect.inspected import inspected
from dmat.testing.inspect.machines import DEFAULT, machines_named
from dmat.testing.inspect.report import exit_code, show
from dmat.testing.interpret.choice import require_triton
from dmat.testing.output import written
from dmat.testing.record import text_of


def command(options: argparse.Namespace) -> int:
    """Inspect as the options say, and return the exit code."""
    require_triton()
    found = inspected(
        options.target,
        machines_named(options.arch or DEFAULT),
        named=bool(options.arch),
        dtypes=options.dtype,
        shapes=options.shape,
        every=options.configs == "all",
    )
    show(found, Console(emoji=False))
    if options.json is not None:
        written(text_of(found, indent=2), options.json)
    return exit_code(found)

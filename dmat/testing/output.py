"""Output shared by all commands: console lines, atomic file writes, and paths as they are shown."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console


def output_path(path: Path) -> Path:
    """Return the path relative to the current directory if it lies below it, else the path unchanged."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path


def written(text: str, file: Path) -> None:
    """Write the file atomically: after a failure the old content is still there.

    Several processes may write it at once; the last one wins.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(file)


def progress(text: str) -> None:
    """Show the text on a terminal, in place of the last one; "" clears the line. Elsewhere, show nothing."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:60}" + ("" if text else "\r"))
        sys.stderr.flush()


def in_places(places: Iterable[tuple[str, str]]) -> str:
    """Return (dtype, device) pairs as text, like "float16, float64 on cpu"."""
    dtypes: dict[str, list[str]] = {}
    for dtype, device in places:
        dtypes.setdefault(device, []).append(dtype)
    return "; ".join(f"{', '.join(names)} on {device}" for device, names in dtypes.items())


def plain(console: Console, text: str) -> None:
    """Print the text literally: no markup, no colours, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def as_text(show: Callable[[Console], None]) -> str:
    """Return what is shown on a console, as text without colours, like that of a command in a pipe."""
    file = io.StringIO()
    show(Console(file=file, emoji=False, color_system=None, force_terminal=False, force_jupyter=False))
    return file.getvalue()

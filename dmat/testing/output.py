"""How dmat writes: a line on the console, a file whole or not at all, a path as it is shown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console


def near(path: Path) -> Path:
    """Return the path as seen from here, where that is shorter."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path


def written(text: str, file: Path) -> None:
    """Write a file whole, or leave what was there."""
    beside = file.with_name(file.name + ".part")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(file)


def in_places(places: Iterable[tuple[str, str]]) -> str:
    """Return "float16, float64 on cpu"."""
    dtypes: dict[str, list[str]] = {}
    for dtype, device in places:
        dtypes.setdefault(device, []).append(dtype)
    return "; ".join(f"{', '.join(names)} on {device}" for device, names in dtypes.items())


def plain(console: Console, text: str) -> None:
    """Print a line as it stands: no markup, no colours, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)

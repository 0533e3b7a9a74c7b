"""The mutants that are argued equivalent, from equivalent.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from .targets import TARGETS

LIST = Path(__file__).with_name("equivalent.toml")
Key = tuple[str, str, str, str]  # file, function, statement, what became of it


def arguments() -> dict[Key, str]:
    """Return the argument for each mutant that is listed."""
    entries = tomllib.loads(LIST.read_text()).get("equivalent", [])
    return {
        (entry["file"], entry["function"], entry["before"], after): entry["argument"]
        for entry in entries
        for after in entry["after"]
    }


def stale() -> list[Key]:
    """Return the entries that match no mutant."""
    known = {(target.path, *mutant.key) for target in TARGETS for mutant in target.mutants()}
    return [key for key in arguments() if key not in known]

"""Every mutant and every sound style as a name of one module, to be typed as a TARGET."""

from __future__ import annotations

from .mutants import MUTANTS
from .sound import SOUND, Dtilde

ALL = {mutant.name: mutant.implementation for mutant in MUTANTS} | {right.__name__: right for right in SOUND}


def __getattr__(name: str) -> Dtilde:
    if name not in ALL:
        raise AttributeError(f"no mutant and no sound style is named {name!r}")
    return ALL[name]

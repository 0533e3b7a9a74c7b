"""Every mutant and every right kernel as an attribute, for use as a TARGET. Fused ones are fused_NAME."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .mutants import MUTANTS
from .right import FUSED_RIGHT, RIGHT
from .wrong import FUSED_MUTANTS

ALL = {mutant.name: mutant.implementation for mutant in MUTANTS} | {right.__name__: right for right in RIGHT}
FUSED = {f"fused_{right.__name__}": right for right in FUSED_RIGHT}
FUSED |= {f"fused_{mutant.name}": mutant.kernel for mutant in FUSED_MUTANTS}


def __getattr__(name: str) -> Callable[..., Any]:
    found = ALL.get(name) or FUSED.get(name)
    if found is None:
        raise AttributeError(f"no mutant and no right kernel is named {name!r}")
    return found

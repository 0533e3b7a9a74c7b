"""Every mutant and every right kernel by name, to be typed as a TARGET; fused ones as fused_NAME."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .fused_mutants import FUSED_MUTANTS
from .mutants import MUTANTS
from .right import FUSED_RIGHT, RIGHT

ALL: dict[str, Callable[..., Any]] = {right.__name__: right for right in RIGHT}
ALL |= {mutant.name: mutant.implementation for mutant in MUTANTS}
ALL |= {f"fused_{right.__name__}": right for right in FUSED_RIGHT}
ALL |= {f"fused_{mutant.name}": mutant.kernel for mutant in FUSED_MUTANTS}


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in ALL:
        raise AttributeError(f"no mutant and no right kernel is named {name!r}")
    return ALL[name]

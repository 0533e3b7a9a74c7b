"""The framework's own machinery: contracts, oracles, bounds, verdicts, the command and the plugin.

What a kernel's author needs is `implementation`, to state what a kernel promises, `from_segment_sum`, to lift
a function of log decays to D~, and `fused`, for an operator on q, k, v and gates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_HOME = {
    "Contract": "dmat.testing.contract",
    "FusedContract": "dmat.testing.contract",
    "NotCovered": "dmat.testing.errors",
    "OutOfBound": "dmat.testing.assertion.judged",
    "Vacuous": "dmat.testing.assertion.vacuous",
    "Within": "dmat.testing.assertion.within",
    "assert_within_bound": "dmat.testing.assertion.within",
    "vacuous": "dmat.testing.assertion.vacuous",
    "LawBroken": "dmat.testing.verdict.finding",
    "from_segment_sum": "dmat.testing.kernel.segment_sum",
    "fused": "dmat.testing.kernel.declare",
    "implementation": "dmat.testing.contract",
    "laws": "dmat.testing.python.suite",
}

if TYPE_CHECKING:
    from dmat.testing.assertion.judged import OutOfBound
    from dmat.testing.assertion.vacuous import Vacuous, vacuous
    from dmat.testing.assertion.within import Within, assert_within_bound
    from dmat.testing.contract import Contract, FusedContract, implementation
    from dmat.testing.errors import NotCovered
    from dmat.testing.kernel.declare import fused
    from dmat.testing.kernel.segment_sum import from_segment_sum
    from dmat.testing.python.suite import laws
    from dmat.testing.verdict.finding import LawBroken

__all__ = [
    "Contract",
    "FusedContract",
    "LawBroken",
    "NotCovered",
    "OutOfBound",
    "Vacuous",
    "Within",
    "assert_within_bound",
    "from_segment_sum",
    "fused",
    "implementation",
    "laws",
    "vacuous",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: the plugin below this package must stay light."""
    if name not in _HOME:
        raise AttributeError(f"module 'dmat.testing' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)

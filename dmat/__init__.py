"""dmat: the log-gate decay matrix D~, and the laws that every kernel for it must keep.

Names are loaded on first use: the pytest plugin lives below this package and is imported in every
pytest run of a user's environment, where torch's two seconds would be felt.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "check": "dmat.testing.python.check",
    "grade": "dmat.testing.python.check",
    "replay": "dmat.testing.python.check",
    "dtilde": "dmat.operator",
    "segment_sum": "dmat.segments",
    "rectangle_sum": "dmat.segments",
    "vlstm_fw_Dtildemat": "dmat.reference",
    "vlstm_fwbw_Dtildemat": "dmat.operator",
    "strategies": "dmat.strategies",
    "testing": "dmat.testing",
}

if TYPE_CHECKING:
    from dmat import strategies, testing
    from dmat.operator import dtilde, vlstm_fwbw_Dtildemat
    from dmat.reference import vlstm_fw_Dtildemat
    from dmat.segments import rectangle_sum, segment_sum
    from dmat.testing.python.check import check, grade, replay

__all__ = [
    "__version__",
    "check",
    "dtilde",
    "grade",
    "rectangle_sum",
    "replay",
    "segment_sum",
    "strategies",
    "testing",
    "vlstm_fw_Dtildemat",
    "vlstm_fwbw_Dtildemat",
]


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'dmat' has no attribute {name!r}; it has {sorted(_HOME)}")
    module = importlib.import_module(_HOME[name])
    return module if module.__name__ == f"dmat.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)

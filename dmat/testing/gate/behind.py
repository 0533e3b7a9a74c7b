"""Put a kernel behind the gate in this process. Loads no torch before the kernel is loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dmat.testing.gate.frozen import parsed

if TYPE_CHECKING:
    from dmat.testing.kernel.implementation import Implementation

_STANDING: dict[str, Implementation] = {}


def stand_behind(target: str, text: str) -> None:
    """Let TARGET name a kernel in a process of its own, under the contract of a file with this text."""
    from dmat.testing.kernel.load import load_by

    load_by(target, partial(_started, text))


def _started(text: str, target: str) -> Implementation:
    """Start the kernel's process, once. Raises TargetError if the kernel cannot be imported."""
    from dmat.testing.gate.proxy import Foreign
    from dmat.testing.kernel.implementation import Implementation

    if target not in _STANDING:
        kernel = Foreign(target)
        kernel.start()
        _STANDING[target] = Implementation(target, kernel, parsed(text).contract)
    return _STANDING[target]

"""Make a process interpret Triton kernels: apply every patch to the interpreter, and test each."""

from __future__ import annotations

import sys

from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import ask, config_index, require_triton

_DONE: list[bool] = []


def install() -> None:
    """Make this process interpret Triton kernels: apply and test all patches. A second call does nothing.

    Call it before triton is first imported, or import triton with TRITON_INTERPRET=1. Raises CannotRun
    otherwise.
    """
    if _DONE:
        return
    require_triton()
    early = "triton" in sys.modules
    ask(config_index() or 0)
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    if early and not isinstance(standard.sum, InterpretedFunction):
        raise CannotRun("triton was imported before its interpreter was chosen: set TRITON_INTERPRET=1")
    from dmat.testing.interpret import (
        autotuner,
        bfloat16,
        devices,
        extrema,
        launch,
        ranges,
        sanitizer,
        speed,
        tf32,
    )

    for repair in (launch, speed, devices, ranges, autotuner, extrema, bfloat16, tf32, sanitizer):
        repair.patch()
    from dmat.testing.interpret.selftest import require_mended

    require_mended()
    _DONE.append(True)

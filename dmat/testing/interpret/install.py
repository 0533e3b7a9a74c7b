"""How a process becomes an interpreter of Triton kernels: every repair is made, and seen to work."""

from __future__ import annotations

import sys

from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import ask, asked, require_triton

_DONE: list[bool] = []


def install() -> None:
    """Make this process an interpreter of Triton kernels, mended and seen to be so; once is enough.

    It comes before the first import of triton, or after one under TRITON_INTERPRET=1. CannotRun otherwise.
    """
    if _DONE:
        return
    require_triton()
    early = "triton" in sys.modules
    ask(asked() or 0)
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    if early and not isinstance(standard.sum, InterpretedFunction):
        raise CannotRun("triton was imported before its interpreter was chosen: set TRITON_INTERPRET=1")
    from dmat.testing.interpret import autotuner, bfloat16, devices, extrema, launch, ranges, sanitizer, tf32

    for repair in (launch, devices, ranges, autotuner, extrema, bfloat16, tf32, sanitizer):
        repair.mend()
    from dmat.testing.interpret.selftest import require_mended

    require_mended()
    _DONE.append(True)

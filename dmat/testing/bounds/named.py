"""The bound that a law names: functions of this folder that return a Bound, EQUAL_BITS, or NO_BOUND."""

from __future__ import annotations

from collections.abc import Callable

from dmat.testing.bounds.formats import Bound

EQUAL_BITS = "equal bits"  # the law compares values bit for bit: no rounding is allowed
NO_BOUND = "no bound"  # the law compares no values, but a shape, a process, the host's waiting, or memory

NamedBound = Callable[..., Bound] | str

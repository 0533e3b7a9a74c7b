"""Floating-point formats, the rounding of a contract, and the constants of every bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dmat.testing.oracle.arithmetic import Array, Mask

# A bound takes fewer than 2^10 roundings of 2^-53 but for its sums over S <= 2^16 terms, of 2^-53 each.
EVALUATION = 1 + 2.0**-36


LOG_SIGMOID_ULPS = 8  # what log sigmoid itself may be off by, in u_a, relative to its value


CONDITION_ULPS = 3  # the same per unit of |f| sigmoid(-f): fast exp is 2^(f log2 e)


RATE_ULPS = 16  # sigmoid(-f) and its product with the sum, in u_a


SCALE_ULPS = 4  # copies and casts on the way of an input gate's gradient


@dataclass(frozen=True)
class Format:
    """A floating point format: unit roundoff u, smallest normal, largest finite, what a store loses."""

    name: str
    u: float
    smallest_normal: float
    largest: float

    @classmethod
    def of(cls, name: str) -> Format:
        """Return the format of a torch dtype, by its name."""
        info = torch.finfo(getattr(torch, name))
        return cls(name, info.eps / 2, info.smallest_normal, info.max)

    @property
    def floor(self) -> float:
        """The loss of one store: the smallest normal number; 2^-24 for float16, which is never flushed."""
        return 2.0**-24 if self.name == "float16" else self.smallest_normal


@dataclass(frozen=True)
class Rounding:
    """The formats that an implementation rounds to: output, accumulator, and its contract's scope."""

    output: Format
    accumulator: Format
    error_scope: str | int = "window"
    gates: str = "relative"

    @property
    def u(self) -> float:
        """Unit roundoff of the output."""
        return self.output.u

    @property
    def u_a(self) -> float:
        """Unit roundoff of the accumulator."""
        return self.accumulator.u

    @property
    def eta(self) -> float:
        """The magnitude below which loads and arithmetic may flush to 0; never float16's smallest normal."""
        narrow = self.output.name in ("float32", "bfloat16")
        return max(self.accumulator.smallest_normal, self.output.smallest_normal if narrow else 0.0)

    def stored(self, error: Array, value: Array) -> Array:
        """(1 + u) e + u |value| + floor: the error e before the store, and the store's own."""
        bound = (1 + self.u) * error + self.u * np.abs(value) + self.output.floor
        return np.asarray(bound * EVALUATION)

    def may_overflow(self, twice_magnitude: Array, error: Array, value: Array) -> Mask:
        """Return where a non-finite result is allowed: the accumulator or the output overflows."""
        within = np.abs(value) + self.stored(error, value)
        return np.asarray(
            (twice_magnitude + error >= self.accumulator.largest) | (within >= self.output.largest)
        )


def gamma(m: Array | float, u: float) -> Array:
    """(1 + u)^m - 1, the relative error of m roundings (Higham 2002, section 3.1, without its 1/(1 - mu))."""
    return np.asarray(np.expm1(np.asarray(m) * np.log1p(u)))


@dataclass(frozen=True)
class Bound:
    """bound: absolute, per entry. overflow: where a result that is not finite is allowed."""

    bound: Array
    overflow: Mask
    free: Mask

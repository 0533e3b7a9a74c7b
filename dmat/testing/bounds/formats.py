"""Floating-point formats, the rounding under a contract (D~ and fused), and the constants of every bound."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from dmat.testing.contract import OPERANDS_OF_FLOAT32, FusedContract
from dmat.testing.oracle.arithmetic import Array, Mask

# Evaluating a bound takes its sums over S <= 2^16 terms and fewer than 2^10 more roundings, of 2^-53 each.
EVALUATION = 1 + 2.0**-36


LOG_SIGMOID_ULPS = 8  # the relative error of log sigmoid itself, in u_a


CONDITION_ULPS = 3  # the error per unit of |f| sigmoid(-f), in u_a: fast exp is 2^(f log2 e)


RATE_ULPS = 16  # sigmoid(-f) and its product with the sum, in u_a


SCALE_ULPS = 4  # copies and casts on the way of an input gate's gradient


# What a matrix unit rounds a float32 operand to: docs/fused.md section 2, "Matrix units".
OPERAND_ROUNDOFF = dict(zip(OPERANDS_OF_FLOAT32, (2.0**-10, 2.0**-21, 2.0**-17), strict=True))


MATRIX_UNIT_ULPS = 3  # the error of a matrix unit per term of a sum, in units of its accumulator's roundoff


@dataclass(frozen=True)
class Format:
    """A floating-point format: unit roundoff u, smallest normal number, largest finite number."""

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
    """The rounding of an implementation: formats of output and accumulator, and its contract's promises."""

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
        """Loads and arithmetic may flush less than this to 0: the larger smallest normal, not float16's."""
        narrow = self.output.name in ("float32", "bfloat16")
        return max(self.accumulator.smallest_normal, self.output.smallest_normal if narrow else 0.0)

    def stored(self, error: Array, value: Array) -> Array:
        """Return (1 + u) e + u |value| + floor: the error e before the store, and the store's own error."""
        bound = (1 + self.u) * error + self.u * np.abs(value) + self.output.floor
        return np.asarray(bound * EVALUATION)

    def may_overflow(self, twice_magnitude: Array, error: Array, value: Array) -> Mask:
        """Return where a non-finite result is allowed: the accumulator or the output may overflow."""
        within = np.abs(value) + self.stored(error, value)
        return np.asarray(
            (twice_magnitude + error >= self.accumulator.largest) | (within >= self.output.largest)
        )


def format_of(name: str) -> Format:
    """Return the format of this name: a torch dtype, or what a matrix unit rounds a float32 operand to."""
    if name in OPERAND_ROUNDOFF:
        single = Format.of("float32")
        return Format(name, OPERAND_ROUNDOFF[name], single.smallest_normal, single.largest)
    return Format.of(name)


@dataclass(frozen=True)
class FusedRounding:
    """The formats of one dtype under a contract: accumulator, operands of products, output, gates.

    products: the format of q, k, v. handed: the format of a state that is handed over. flushes: whether a
    matrix unit takes a subnormal operand of a half type for 0.
    """

    accumulator: Format
    operands: Format
    output: Format
    gates: Format
    products: Format
    handed: Format
    flushes: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, contract: FusedContract, dtype: str, *, flushes: bool = False) -> FusedRounding:
        """Return the formats that the contract names."""
        names = (contract.accumulator(dtype), contract.multiplies(dtype), contract.returns(dtype))
        return cls(*map(format_of, (*names, contract.gates_in(dtype), dtype, dtype)), flushes=flushes)

    @property
    def parameters(self) -> Format:
        """The format of A_log and dt_bias: float32, float64 for a float64 kernel."""
        return format_of("float64" if self.products.name == "float64" else "float32")

    def handing_over(self, name: str | None) -> FusedRounding:
        """Return these formats with a state that is handed over in the named format; None if unknown.

        A state may be rounded to the format of q, k, v, but not to a coarser one.
        """
        form = self.products if name is None else format_of(name)
        return replace(self, handed=min(form, self.products, key=lambda form: form.u))

    @property
    def u_a(self) -> float:
        """Unit roundoff of the accumulator; three times that where matrix units may sum."""
        narrow = max(self.operands.u, self.products.u) > self.accumulator.u
        return self.accumulator.u * (MATRIX_UNIT_ULPS if narrow else 1)

    @property
    def u_m(self) -> float:
        """Unit roundoff of the operands of products, 0 where they are not narrower than the accumulator."""
        return self.operands.u if self.operands.u > self.accumulator.u else 0.0

    @property
    def tiny(self) -> float:
        """The loss of one step to underflow. The final store loses its own format's floor, once."""
        flushed = max(self.operands.smallest_normal, self.products.smallest_normal) if self.flushes else 0.0
        return max(self.accumulator.floor, self.operands.floor, flushed)

    @property
    def largest(self) -> float:
        """The smallest of the formats' largest finite numbers: accumulator, operands, output."""
        return min(f.largest for f in (self.accumulator, self.operands, self.output))


def flushes_halves(device: str) -> bool:
    """Return whether matrix units of this device take subnormal half operands for 0: AMD's gfx90a does."""
    if torch.version.hip is None or torch.device(device).type != "cuda":
        return False
    return str(torch.cuda.get_device_properties(device).gcnArchName).startswith("gfx90a")


def gamma(m: Array | float, u: float) -> Array:
    """Return (1 + u)^m - 1, the relative error of m roundings.

    Higham 2002, section 3.1, without its 1/(1 - mu).
    """
    return np.asarray(np.expm1(np.asarray(m) * np.log1p(u)))


@dataclass(frozen=True)
class Bound:
    """The allowed error of a tensor's entries.

    bound: absolute, per entry. overflow: where a non-finite result is allowed. free: entries without promise.
    """

    bound: Array
    overflow: Mask
    free: Mask

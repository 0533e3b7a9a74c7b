"""Matrix units of GPUs, emulated: how each architecture aligns, truncates and rounds the sums of tl.dot.

The models are published: Fasi, Higham, Mikaitis, Pranesh, PeerJ CS 330 (2021); Khattak, Mikaitis,
arXiv 2512.07004; Xie, Xu, Wang, Yang, Yang, arXiv 2511.10909. docs/fused.md section 2 bounds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Array = NDArray[Any]
NOTHING = -5000  # the exponent of 0
FLUSHED = {torch.float16: 2.0**-14, torch.bfloat16: 2.0**-126}  # gfx90a takes smaller operands for 0


def exponent(x: Array) -> Array:
    """Return the exponent of each number: x = m 2^e with 1 <= |m| < 2."""
    return np.where(x == 0, NOTHING, np.frexp(x)[1] - 1)


def aligned(x: Array, bits: int, largest: Array, rounded: Callable[[Array], Array] = np.trunc) -> Array:
    """Return x cut off to this number of fraction bits of a number with the exponent `largest`."""
    unit = bits - np.where(largest <= NOTHING, 0, largest)
    return np.asarray(np.ldexp(rounded(np.ldexp(x, unit)), -unit))


def toward_zero(x: Array) -> Array:
    """Round float64 to float32, toward 0."""
    near = x.astype(np.float32)
    return np.where(np.abs(near.astype(np.float64)) > np.abs(x), np.nextafter(near, np.float32(0)), near)


@dataclass(frozen=True)
class Unit:
    """A matrix unit: it adds `terms` products of half types (`wide` of TF32) to a float32 in one step.

    bits: fraction bits of what it aligns. 0: it adds each pair with a rounding to nearest, takes subnormal
    halves for 0, and multiplies float32 as it is.
    floors: it cuts the accumulator off downwards, and rounds the sum to nearest.
    """

    bits: int
    terms: int
    wide: int
    floors: bool = False

    def step(self, products: Array, exponents: Array, c: Array) -> Array:
        """Return c + the sum of the products over the last axis but one, in float32."""
        c = c.astype(np.float64)
        if not self.bits:
            pairs = products.astype(np.float32)
            while pairs.shape[-2] > 1:
                pairs = pairs[..., ::2, :] + pairs[..., 1::2, :]
            return np.asarray(c.astype(np.float32) + pairs[..., 0, :])
        own, largest = exponent(c), exponents.max(-2)
        if self.floors:
            total = aligned(products, self.bits, largest[..., None, :]).sum(-2)
            largest = np.maximum(largest, own)
            total = aligned(total, 31, largest, np.floor) + aligned(c, 24, largest, np.floor)
            return np.asarray(total.astype(np.float32))
        largest = np.maximum(largest, own)
        total = aligned(products, self.bits, largest[..., None, :]).sum(-2) + aligned(c, self.bits, largest)
        return toward_zero(total)

    def added(self, a: Array, b: Array, c: Array, terms: int) -> Array:
        """Return c + a @ b, in steps of so many terms. a is (..., M, K), b is (..., K, L)."""
        short = -a.shape[-1] % terms
        a = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, short)]).astype(np.float64)
        b = np.pad(b, [(0, 0)] * (b.ndim - 2) + [(0, short), (0, 0)]).astype(np.float64)
        for k in range(0, a.shape[-1], terms):
            left, right = a[..., :, k : k + terms, None], b[..., None, k : k + terms, :]
            both = np.maximum(exponent(left) + exponent(right), NOTHING)
            c = self.step(left * right, both, c)
        return c

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a @ b in float32; of float32 operands by three products of TF32, as "tf32x3"."""
        halves = a.dtype in FLUSHED
        x, y = a.detach().float().numpy(), b.detach().float().numpy()
        plain = not self.bits and not halves
        if plain or 0 in (*a.shape, *b.shape) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return torch.from_numpy(np.matmul(x, y))
        c = np.zeros((*x.shape[:-1], y.shape[-1]), np.float32)
        if halves and not self.bits:
            x, y = (np.where(np.abs(z) < FLUSHED[a.dtype], 0, z) for z in (x, y))
        if halves:
            return torch.from_numpy(self.added(x, y, c, self.terms))
        (x, small_x), (y, small_y) = split(x), split(y)
        for left, right in ((small_x, y), (x, small_y), (x, y)):
            c = self.added(left, right, c, self.wide)
        return torch.from_numpy(c)


def tf32(x: Array) -> Array:
    """Round float32 to TF32: to nearest, ties away from 0."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def split(x: Array) -> tuple[Array, Array]:
    """Return the two parts of TF32 whose sum is nearly x."""
    large = tf32(np.ascontiguousarray(x))
    return large, tf32(x - large)


UNITS = {
    "sm_80": Unit(bits=24, terms=8, wide=4),
    "sm_90": Unit(bits=25, terms=16, wide=8),  # sm_100 too
    "gfx942": Unit(bits=24, terms=8, wide=4, floors=True),
    "gfx90a": Unit(bits=0, terms=4, wide=1),
}


class Emulated(TorchDispatchMode):
    """In this context torch multiplies matrices as the matrix unit of an architecture does.

    Float32 matrices that hold numbers of a half type alone are multiplied as of that type, but on gfx90a.
    """

    def __init__(self, arch: str) -> None:
        """Take a name of UNITS."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.unit, self.calls = UNITS[arch], 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """Replace aten::mm and aten::bmm."""
        name = function._schema.name
        if name not in ("aten::mm", "aten::bmm") or arguments[0].dtype not in (*FLUSHED, torch.float32):
            return function(*arguments, **(keywords or {}))
        self.calls += 1
        a, b = arguments
        for half in FLUSHED if self.unit.bits else ():
            if a.dtype == torch.float32 and all(torch.equal(x, x.to(half).float()) for x in (a, b)):
                a, b = a.to(half), b.to(half)
        return self.unit.product(a, b).to(arguments[0].dtype)

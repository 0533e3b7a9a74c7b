"""Triton kernels whose fault no interpreter shows, and right ones beside them: for `dmat inspect`.

All are one linear attention, o = (q k^T * E) v, forward alone, in one block. triton_names.py says which
promise the compiled code of each contradicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmat.testing import fused

SIZE = 16  # K and V
STATED: dict[str, Any] = {
    "reads": "linear",
    "gate": "log",
    "gradient": "none",
    "K": (SIZE,),
    "V": (SIZE,),
    "lengths": (16, 33),
    "dtypes": ("float32",),
    "multiplies_in": "float32",
    "accumulates_in": "float32",
    "error_scope": "prefix",
    "factors": "one",
    "l_min": -20.0,
}


@triton.jit
def _cut(x):
    """x to 10 fraction bits, which TF32 has."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _product(a, b, HOW: tl.constexpr):
    """The product of two blocks, in one of many ways."""
    if HOW == "default":
        c = tl.dot(a, b)
    elif HOW == "bfloat16":
        c = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif HOW == "float16":
        c = tl.dot(a.to(tl.float16), b.to(tl.float16))
    elif HOW == "sums in float16":
        c = tl.dot(a.to(tl.float16), b.to(tl.float16), out_dtype=tl.float16).to(tl.float32)
    elif HOW == "split by hand":
        c = tl.dot(a - _cut(a), _cut(b), input_precision="tf32")
        c += tl.dot(_cut(a), b - _cut(b), input_precision="tf32")
        c += tl.dot(_cut(a), _cut(b), input_precision="tf32")
    elif HOW == "split into bfloat16":
        high, low = a.to(tl.bfloat16), (a - a.to(tl.bfloat16).to(tl.float32)).to(tl.bfloat16)
        other, rest = b.to(tl.bfloat16), (b - b.to(tl.bfloat16).to(tl.float32)).to(tl.bfloat16)
        c = tl.dot(low, other) + tl.dot(high, rest) + tl.dot(high, other)
    else:
        c = tl.dot(a, b, input_precision=HOW)
    return c


@triton.jit
def _forward(q, k, v, g, o, S, HOW: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr):
    """One head. HOW, LAST: how the first and the second product are made."""
    t, d = tl.arange(0, BLOCK), tl.arange(0, K)
    head = tl.program_id(0) * S
    inside = (t < S)[:, None]
    at = (head + t)[:, None] * K + d[None, :]
    qs = tl.load(q + at, mask=inside, other=0.0).to(tl.float32)
    ks = tl.load(k + at, mask=inside, other=0.0).to(tl.float32)
    vs = tl.load(v + at, mask=inside, other=0.0).to(tl.float32)
    sums = tl.cumsum(tl.load(g + head + t, mask=t < S, other=0.0).to(tl.float32), axis=0)
    later = t[:, None] >= t[None, :]
    E = tl.exp(tl.where(later, sums[:, None] - sums[None, :], float("-inf")))
    out = _product(_product(qs, tl.trans(ks), HOW) * E, vs, LAST)
    tl.store(o + at, out.to(o.dtype.element_ty), mask=inside)


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


def attention(how: str, last: str = "ieee", **launch: int) -> Callable[..., Tensor]:
    """Return the kernel whose products are made in these ways."""

    def call(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        q, k, v, g = _contiguous(q, k, v, g)
        B, NH, S, K = q.shape
        o = torch.empty_like(v)
        block = max(SIZE, triton.next_power_of_2(S))
        _forward[(B * NH,)](q, k, v, g, o, S, HOW=how, LAST=last, BLOCK=block, K=K, **launch)
        return o

    return call


# Sums over programs


@triton.jit
def _by_source(q, k, v, g, o, S, PARTS: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr):
    """A program takes every PARTS-th source and adds its terms to all rows."""
    t, d = tl.arange(0, BLOCK), tl.arange(0, K)
    head, part = tl.program_id(0) * S, tl.program_id(1)
    at = (head + t)[:, None] * K + d[None, :]
    mine = (t < S) & (t % PARTS == part)
    qs = tl.load(q + at, mask=(t < S)[:, None], other=0.0)
    ks = tl.load(k + at, mask=mine[:, None], other=0.0)
    vs = tl.load(v + at, mask=mine[:, None], other=0.0)
    sums = tl.cumsum(tl.load(g + head + t, mask=t < S, other=0.0), axis=0)
    E = tl.exp(tl.where(t[:, None] >= t[None, :], sums[:, None] - sums[None, :], float("-inf")))
    terms = tl.dot(tl.dot(qs, tl.trans(ks), input_precision="ieee") * E, vs, input_precision="ieee")
    tl.atomic_add(o + at, terms, mask=(t < S)[:, None])


def by_source(parts: int) -> Callable[..., Tensor]:
    """Return the kernel that adds so many programs' terms to each row by atomics."""

    def call(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        q, k, v, g = _contiguous(q, k, v, g)
        B, NH, S, K = q.shape
        o = torch.zeros_like(v)
        block = max(SIZE, triton.next_power_of_2(S))
        _by_source[(B * NH, parts)](q, k, v, g, o, S, PARTS=parts, BLOCK=block, K=K)
        return o

    return call


# Memory that the device does not have, formats that it does not know


@triton.jit
def _large(x, TILE: tl.constexpr):
    """Turn a tile over, which takes the shared memory of the whole tile, and add nothing to x."""
    i = tl.arange(0, TILE)
    tile = tl.trans(tl.load(x + i[:, None] * 0 + i[None, :] * 0))
    tl.store(x + i[:, None] * 0 + i[None, :] * 0, tile)


def _tuned(*tiles: int) -> Any:
    configs = [triton.Config({"TILE": tile}, num_warps=16) for tile in tiles]
    return triton.autotune(configs=configs, key=[])(_large)


TOO_LARGE, ONE_FITS = _tuned(512, 256), _tuned(512, 32)


def with_tiles(large: Callable[[Tensor], object]) -> Callable[..., Tensor]:
    """Return the right kernel, which also launches `large` on a tensor of its own."""
    right = attention("ieee")

    def call(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        large(torch.zeros(16))
        return right(q, k, v, g)

    return call


@triton.jit
def _float8(x):
    """Round to float8e4nv, that sm_80 does not have."""
    i = tl.arange(0, 16)
    tl.store(x + i, tl.load(x + i).to(tl.float8e4nv).to(tl.float32))


@triton.heuristics({"TWICE": lambda arguments: arguments["size"] * 2 == 32})
@triton.jit
def specialised(x, more, size, TWICE: tl.constexpr, BLOCK: tl.constexpr = 16):
    """A kernel with a constexpr by a heuristic, a default, and an argument that may be None."""
    i = tl.arange(0, BLOCK)
    y = tl.load(x + i * size, mask=i * size < BLOCK, other=0.0)
    if more is not None:
        y += tl.load(more + i)
    if TWICE:
        y *= 2
    tl.store(x + i, y)


def _stated(kernel: Callable[..., Tensor], **more: Any) -> Any:
    return fused(kernel, **(STATED | more))


# Mutants

tf32_stated_float32 = _stated(attention("tf32"))
tf32_by_default = _stated(attention("default"))
tf32_in_the_last_product = _stated(attention("tf32x3", "default"))
bfloat16_operands = _stated(attention("bfloat16"))
float16_operands = _stated(attention("ieee", "float16"))
summed_in_float16 = _stated(attention("sums in float16"), multiplies_in="float16")
atomics_in_any_order = _stated(by_source(8))
too_large = _stated(with_tiles(lambda x: _large[(1,)](x, TILE=512, num_warps=16)))
no_configuration_fits = _stated(with_tiles(lambda x: TOO_LARGE[(1,)](x)))
unknown_format = _stated(with_tiles(lambda x: _float8[(1,)](x)))
too_many_threads = _stated(with_tiles(lambda x: _large[(1,)](x, TILE=32, num_warps=64)))

# Right kernels

ieee = _stated(attention("ieee"))
tf32x3 = _stated(attention("tf32x3", "tf32x3"))
split_by_hand = _stated(attention("split by hand", "split by hand"))
split_into_bfloat16 = _stated(attention("split into bfloat16", "split into bfloat16"))
tf32_as_stated = _stated(attention("default", "default"), multiplies_in="input")
tf32_not_stated = _stated(attention("default", "default"), multiplies_in=None)
widened = _stated(attention("default"), dtypes=("bfloat16",))
one_configuration_fits = _stated(with_tiles(lambda x: ONE_FITS[(1,)](x)))
atomics_of_one_program = _stated(by_source(1))
atomics_not_promised = _stated(by_source(8), deterministic=False)

"""Small kernels, one a part of Triton's language that its interpreter had wrong."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def rounds_toward_zero(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


@triton.jit
def operation(x, y, out, N: tl.constexpr, OPERATION: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    if OPERATION == "add":
        c = a + b
    elif OPERATION == "sub":
        c = a - b
    elif OPERATION == "mul":
        c = a * b
    elif OPERATION == "div":
        c = a / b
    elif OPERATION == "maximum":
        c = tl.maximum(a, b)
    elif OPERATION == "less":
        c = tl.where(a < b, a, b)
    elif OPERATION == "constant":
        c = tl.full((N,), 1.5, x.dtype.element_ty) * a
    else:
        c = -a
    tl.store(out + i, c.to(out.dtype.element_ty))


@triton.jit
def extrema(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, tl.maximum(a, 0.0))
    tl.store(out + N + i, tl.minimum(a, 0.0))
    tl.store(out + 2 * N + i, tl.clamp(a, -1.0, 1.0))
    tl.store(out + 3 * N + i, tl.maximum(a, 0.0, propagate_nan=tl.PropagateNan.ALL))
    tl.store(out + 4 * N + i, tl.clamp(a, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def cast(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty))


@triton.jit
def extremes(x, out, N: tl.constexpr):
    a = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.max(a, axis=0).to(out.dtype.element_ty))
    tl.store(out + 1, tl.min(a, axis=0).to(out.dtype.element_ty))
    tl.store(out + 2, tl.argmax(a, axis=0).to(out.dtype.element_ty))
    tl.store(out + 3, tl.argmin(a, axis=0).to(out.dtype.element_ty))


@triton.jit
def sums(x, out, N: tl.constexpr):
    a = tl.load(x + tl.arange(0, N))
    tl.store(out, tl.sum(a, axis=0))
    tl.store(out + 1, tl.sum(a.to(tl.float32), axis=0).to(out.dtype.element_ty))
    tl.store(out + 2 + tl.arange(0, 1), tl.sum(a, axis=0, keep_dims=True))
    tl.store(out + 3, tl.sum(tl.reshape(a, (N // 2, 2))))


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def scan(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.associative_scan(tl.load(x + i), 0, plus))


@triton.jit
def atomic(x, total, before, N: tl.constexpr):
    i = tl.arange(0, N)
    found = tl.atomic_add(total + i * 0, tl.load(x + i), mask=i < N - 1)
    tl.store(before + i, found)


@triton.jit
def padded(x, out, N: tl.constexpr):
    block = tl.make_block_ptr(x, (12,), (1,), (0,), (N,), (0,))
    tl.store(out + tl.arange(0, N), tl.load(block, boundary_check=(0,), padding_option="nan"))


@triton.jit
def dot(x, y, out, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    found = tl.dot(tl.load(x + i), tl.load(y + i), input_precision=PRECISION)
    tl.store(out + i, found.to(out.dtype.element_ty))


@triton.jit
def before(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i - 2, tl.load(x + i))


@triton.jit
def read(x, i):
    return tl.load(x + i)


@triton.jit
def calls(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, read(x, i))


@triton.jit
def adds(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.atomic_add(out + i, tl.load(x + i))


@triton.jit
def block(x, out, N: tl.constexpr):
    a = tl.load(tl.make_block_ptr(x, (N,), (1,), (0,), (N,), (0,)))
    tl.store(out + tl.arange(0, N), a)


@triton.jit
def recast(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    bits = tl.load(x.to(tl.pointer_type(tl.int32)) + i)
    tl.store(out + i, bits.to(tl.float32, bitcast=True))


@triton.jit
def masked(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i * 2, mask=(i < 5).to(tl.int32) * 256, other=-1.0))


@triton.jit
def either(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(tl.where(i % 2 == 0, x + i, y + i)))


@triton.jit
def loops(out, n, LOOP: tl.constexpr):
    total = tl.zeros((), tl.int64)
    if LOOP == "range":
        for i in range(1, n):
            total += i.to(tl.int64)  # type: ignore[attr-defined]
            total += (i + i // 2).to(tl.int64) + (7 - i).to(tl.int64)  # type: ignore[attr-defined]
    elif LOOP == "tl.range":
        for i in tl.range(1, n, num_stages=2):
            total += i.to(tl.int64) + (i + i // 2).to(tl.int64) + (7 - i).to(tl.int64)
    else:
        for i in tl.static_range(1, 4):
            total += i.to(tl.int64) + (i + i // 2).to(tl.int64) + (7 - i).to(tl.int64)
    tl.store(out, total)


def host_range() -> range:
    return range(3)


HOOKED: list[Any] = []


@triton.autotune(
    [
        triton.Config({"K": 10}),
        triton.Config({"K": 0}),
        triton.Config({"K": 30}, pre_hook=HOOKED.append),
    ],
    key=["n"],
    reset_to_zero=["out"],
)
@triton.heuristics({"MORE": lambda arguments: arguments["n"] - 2})
@triton.jit
def tuned(out, n, K: tl.constexpr, MORE: tl.constexpr):
    tl.static_assert(K > 0, "K must be positive")
    tl.store(out, K + MORE)


@triton.autotune([triton.Config({"K": 0}), triton.Config({"K": 2})], key=[])
@triton.jit
def tuned_wrongly(out, N: tl.constexpr, K: tl.constexpr):
    tl.store(out + K, K)

"""Test each patch of the interpreter when a process starts: with changed internals of Triton it must fail."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from dmat.testing.errors import CannotRun
from dmat.testing.interpret.choice import TRITON
from dmat.testing.interpret.sanitizer import OutOfBounds

N = 16


@triton.jit
def _add(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i))


@triton.jit
def _limit(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.maximum(tl.load(x + i), 0.0))


@triton.jit
def _sum(x, out, N: tl.constexpr):
    tl.store(out, tl.sum(tl.load(x + tl.arange(0, N)), axis=0))


@triton.jit
def _dot(x, y, out, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + i, tl.dot(tl.load(x + i), tl.load(y + i), input_precision=PRECISION))


@triton.jit
def _count(out, n):
    total = tl.zeros((), tl.int64)
    for i in range(n):
        total += (i + 1).to(tl.int64)  # type: ignore[attr-defined]
    tl.store(out, total)


@triton.autotune([triton.Config({"K": 0}), triton.Config({"K": 7})], key=[])
@triton.jit
def _tuned(out, K: tl.constexpr):
    tl.static_assert(K > 0)
    tl.store(out, K)


def bfloat16_arithmetic() -> bool:
    """Ties round to even, NaN stays NaN."""
    x = torch.tensor([256.0, 258.0, -3.0, float("nan")] * 4, dtype=torch.bfloat16)
    out = torch.zeros_like(x)
    _add[(1,)](x, torch.ones_like(x), out, N=N)
    return out[:3].tolist() == [256.0, 260.0, -2.0] and bool(out[3].isnan())


def bfloat16_sums() -> bool:
    """A sum of integers is exact."""
    x, out = torch.arange(-3, N - 3).bfloat16(), torch.zeros(1, dtype=torch.bfloat16)
    _sum[(1,)](x, out, N=N)
    return bool(out.item() == x.double().sum())


def bfloat16_dots() -> bool:
    """Products of integers are exact."""
    x, out = (torch.arange(N * N).view(N, N) % 13 - 6).bfloat16(), torch.zeros(N, N)
    _dot[(1,)](x, x, out, N=N, PRECISION="tf32")
    return torch.equal(out, x.float() @ x.float())


def extrema_beside_nan() -> bool:
    """The greater of NaN and 0 is 0."""
    x = torch.tensor([float("nan"), 2.0] * (N // 2))
    out = torch.ones(N)
    _limit[(1,)](x, out, N=N)
    return out[:2].tolist() == [0.0, 2.0]


def tf32_dots() -> bool:
    """The 12th bit of an operand is lost in tf32, and kept in ieee."""
    x, out = torch.eye(N) * (1 + 2.0**-12), torch.zeros(2, N, N)
    for precision, one in zip(("tf32", "ieee"), out, strict=True):
        _dot[(1,)](x, torch.eye(N), one, N=N, PRECISION=precision)
    return torch.equal(out[0], torch.eye(N)) and torch.equal(out[1], x)


def the_address_sanitizer() -> bool:
    """A load past the end raises OutOfBounds before any memory is read."""
    try:
        _sum[(1,)](torch.zeros(N - 1), torch.zeros(1), N=N)
    except OutOfBounds as error:
        return "1 of 16 addresses outside of x (60 bytes), as far as 4 bytes past its end" in str(error)
    return False


def the_integers_of_loops() -> bool:
    """Loop variables have .to()."""
    out = torch.zeros(1, dtype=torch.int64)
    _count[(1,)](out, 3)
    return out.item() == 6


def the_autotuner() -> bool:
    """If a static assertion refuses a config, the next one is used."""
    out = torch.zeros(1, dtype=torch.int32)
    _tuned[(1,)](out)
    return out.item() == 7


REPAIRS: tuple[Callable[[], bool], ...] = (
    bfloat16_arithmetic,
    bfloat16_sums,
    bfloat16_dots,
    extrema_beside_nan,
    tf32_dots,
    the_address_sanitizer,
    the_integers_of_loops,
    the_autotuner,
)


def require_mended() -> None:
    """Raise CannotRun with a one-line message if a patch does not work."""
    for repair in REPAIRS:
        try:
            works = repair()
        except Exception as error:
            why = f" ({type(error).__name__}: {str(error).splitlines()[:1]})"
        else:
            why = ""
        if why or not works:
            name = repair.__name__.replace("_", " ")
            raise CannotRun(
                f"in this triton, {triton.__version__}, {name} cannot be mended{why}; it needs {TRITON}"
            )

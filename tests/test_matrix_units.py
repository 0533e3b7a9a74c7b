"""Sums of matrix units stay within gamma(3 n), and right kernels on them within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmat.testing.bounds import formats
from dmat.testing.bounds.formats import FusedRounding, format_of, gamma
from dmat.testing.contract import FusedContract
from dmat.testing.registry import laws

from .matrix_units import UNITS, Emulated, split
from .zoo.fresh import accusations
from .zoo.fused_fresh import subjects
from .zoo.right import FUSED_RIGHT

ARCHITECTURES = list(UNITS)
U_A = 2.0**-24
LAWS = ("values", "dense", "product_gradients", "gradient_exact", "exact", "handover", "forget_gradient")
STYLES = {kernel.__name__: kernel for kernel in FUSED_RIGHT}


def drawn(K: int, seed: int, rows: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of positive bfloat16 numbers whose products are of unlike sizes."""
    draw = np.random.default_rng(seed)
    sizes = -draw.integers(0, draw.integers(1, 28), (rows, K))
    x, y = (np.ldexp(1 + draw.integers(0, 128, (rows, K)) / 128, e) for e in (sizes // 2, sizes - sizes // 2))
    return torch.from_numpy(x).bfloat16()[:, None, :], torch.from_numpy(y).bfloat16()[:, :, None]


def worst(arch: str, K: int, ulps: int) -> float:
    """Return the largest error of sums of K positive products, over gamma(ulps (K - 1)) of the sum."""
    found = 0.0
    for seed in range(8):
        a, b = drawn(K, seed)
        true = a.double() @ b.double()
        error = (UNITS[arch].product(a, b).double() - true).abs() / true
        found = max(found, float(error.max()) / float(gamma(ulps * (K - 1), U_A)))
    return found


@pytest.mark.parametrize("K", [2, 3, 8, 16, 40])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_sum_is_within_its_bound(arch: str, K: int) -> None:
    """A matrix unit adds n terms within gamma(3 (n - 1))."""
    assert worst(arch, K, formats.MATRIX_UNIT_ULPS) <= 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_the_bound_of_rounding_to_nearest_is_too_small(arch: str) -> None:
    """Units that truncate exceed gamma(n - 1)."""
    assert worst(arch, 2, 1) > 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
def test_integers_are_exact(arch: str) -> None:
    """Sums of integers below 2^24 lose nothing."""
    a = torch.arange(-300, 300).reshape(20, 30).half()
    assert torch.equal(UNITS[arch].product(a, a.T.contiguous()), a.float() @ a.float().T)


def test_two_parts_of_tf32_lose_what_the_format_says() -> None:
    """A product in "tf32x3" is within twice its roundoff, beside the roundings of the sum."""
    x = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float().numpy() + 1
    (large, small), (other, rest) = split(x), split(x[::-1].copy())
    computed = sum(p.astype(float) * q for p, q in ((large, other), (large, rest), (small, other)))
    error = np.abs(computed / (x.astype(float) * x[::-1]) - 1)
    assert 2.0**-24 < error.max() <= 2 * format_of("tf32x3").u


def test_the_accumulator_of_narrow_operands_counts_three_times() -> None:
    """Half inputs, and a format that a matrix unit rounds to, make u_a 3 2^-24; float32 alone does not."""
    contract = FusedContract(reads="linear")
    assert FusedRounding.of(contract, "float32").u_a == U_A
    assert FusedRounding.of(contract, "bfloat16").u_a == 3 * U_A
    split_operands = FusedContract(reads="linear", multiplies_in="tf32x3")
    assert FusedRounding.of(split_operands, "float32").u_a == 3 * U_A
    assert FusedRounding.of(split_operands, "float32").u_m == 2.0**-21


def test_what_gfx90a_takes_for_0_is_allowed() -> None:
    """Where half operands are flushed, a step may lose the smallest normal number of their type."""
    contract = FusedContract(reads="linear")
    rounding = FusedRounding.of(contract, "float16", flushes=True)
    lost = 2.0**-14 - 2.0**-24
    a = torch.full((1, 1, 1), lost, dtype=torch.float16)
    one = torch.ones(1, 1, 1, dtype=torch.float16)
    assert UNITS["gfx90a"].product(a, one) == 0
    assert UNITS["gfx942"].product(a, one) == lost
    assert FusedRounding.of(contract, "float16").tiny < lost <= rounding.tiny


def tried(style: str, arch: str, dtype: str, examples: int) -> tuple[list[object], int]:
    """Return what the laws accuse a right style of on this matrix unit, and how often it multiplied there."""
    found: list[object] = []
    with Emulated(arch) as emulated:
        for subject in subjects(STYLES[style], (dtype,)):
            for law in [law for law in laws("fused") if law.name in LAWS]:
                found += [broken for _, _, broken in accusations(law, [subject], examples)]
    return found, emulated.calls


def test_a_right_kernel_is_not_accused() -> None:
    """A right kernel of half inputs keeps its laws on a unit that truncates."""
    found, calls = tried("chunks_back", "sm_80", "bfloat16", 2)
    assert calls
    assert not found


@pytest.mark.night
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("style", list(STYLES))
def test_no_right_kernel_is_accused(style: str, arch: str, dtype: str) -> None:
    """No right kernel breaks a law on a matrix unit; in float32 it multiplies as "tf32x3"."""
    found, _ = tried(style, arch, dtype, 20)
    assert not found

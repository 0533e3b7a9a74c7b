"""The laws of dmat/triton_kernels.py, on CUDA or in Triton's interpreter: run by test_triton.py.

The interpreter is a choice of the whole process, made by TRITON_INTERPRET=1 before triton is imported.
"""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor

from dmat import triton_kernels
from dmat.testing.interpret.install import install
from dmat.triton_kernels import rectangle_sums, window_sums
from tests.test_operator import (
    DTYPES,
    each_dtype,
    integers,
    naive_rectangle_sum,
    naive_segment_sum,
    own_randomness,  # noqa: F401
    past,
    same,
)

INF, NAN = math.inf, math.nan
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257, 400]  # around the edges of a chunk
ABOVE = [-INF, 0.0, None]
if INTERPRETED:
    install()

on_cuda = pytest.mark.skipif(INTERPRETED, reason="needs CUDA: the interpreter has no device")
each_summed = pytest.mark.parametrize("summed", [False, True])


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4, so that a short sequence has more of them than a program adds up at a time."""
    for name, value in {"SMALLEST_CHUNK": 4, "LARGEST_CHUNK": 4, "TILES": 2, "STEP": 16, "EDGE": 2}.items():
        monkeypatch.setattr(triton_kernels, name, value)


def windows(column: Tensor, v: Tensor, above: float | None, dtype: torch.dtype, **given: Tensor) -> Tensor:
    """window_sums, computed on the device."""
    return window_sums(column.to(DEVICE), v.to(DEVICE), above, dtype, **given).cpu()


def rectangles(G: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """rectangle_sums of a tensor that is on the device."""
    columns, found = rectangle_sums(G, summed=summed)
    return columns.cpu(), found.cpu()


def naive_windows(column: Tensor, v: Tensor, above: float | None) -> Tensor:
    """Truth in float64: the naive sums, and what stands above the diagonal."""
    start = column.unsqueeze(-2)
    return torch.where(past(v.shape[-1]), naive_segment_sum(v) + start, start if above is None else above)


def naive_columns(G: Tensor, summed: bool) -> Tensor:
    """Truth in float64: the sum of each column, of t >= s alone or of all."""
    G = G.double()
    return (G if summed else torch.where(past(G.shape[-1]), G, 0.0)).sum(-2)


def require_sums(G: Tensor, summed: bool) -> None:
    """Both sums of G, which are exact, are those of the formulas."""
    columns, found = rectangles(G, summed)
    assert same(columns, naive_columns(G.cpu(), summed))
    assert same(found, naive_rectangle_sum(G.cpu()))


def cotangent(*shape: int, dtype: torch.dtype = torch.float64, summed: bool = True) -> Tensor:
    """Small integers on the device, NaN above the diagonal unless that is summed."""
    G = integers(*shape, dtype=dtype)
    return (G if summed else torch.where(past(shape[-1]), G, NAN)).to(DEVICE)


def nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x rounded once to a half type, ties to even, above its smallest normal number."""
    digits = 1 - round(math.log2(torch.finfo(dtype).eps))
    fraction, exponent = torch.frexp(x)
    rounded = torch.ldexp(torch.round(torch.ldexp(fraction, torch.tensor(digits))), exponent - digits)
    return torch.where(rounded.abs() > torch.finfo(dtype).max, rounded.sign() * INF, rounded).to(dtype)


def gamma(m: Tensor) -> Tensor:
    """(1 + u)^m - 1 for float64, elementwise (docs/spec.md section 3)."""
    return torch.expm1(m * math.log1p(2.0**-53))


@pytest.mark.parametrize("S", LENGTHS)
def test_windows_are_exact_on_integers(S: int) -> None:
    """[t, s] = column[s] + v[s+1] + .. + v[t] for t >= s, and the constant or column[s] above."""
    column, v = integers(2 if S < 100 else 1, S), integers(2 if S < 100 else 1, S)
    for above in ABOVE if S < 100 else (-INF, None):
        assert same(windows(column, v, above, torch.float32), naive_windows(column, v, above).float())


@each_summed
@pytest.mark.parametrize("S", LENGTHS)
def test_rectangles_are_exact_on_integers(S: int, summed: bool) -> None:
    """Sums of G over t >= k > s, and of each column; what is not read may be NaN."""
    require_sums(cotangent(2 if S < 100 else 1, S, S, dtype=torch.float32, summed=summed), summed)


@each_dtype
@pytest.mark.usefixtures("short_chunks")
def test_many_chunks_in_every_dtype(dtype: torch.dtype) -> None:
    """Both maps are exact on integers where there are more chunks than a program takes at a time."""
    S = 27
    column, v = integers(S), integers(S)
    assert same(windows(column, v, -INF, dtype), naive_windows(column, v, -INF).to(dtype))
    for summed in (False, True):
        require_sums(cotangent(S, S, dtype=dtype, summed=summed), summed)


@pytest.mark.parametrize("S", [5, 50])
def test_the_pair_is_adjoint(S: int) -> None:
    """<window_sums(c, v), G> = <c, columns> + <v, rectangles>, in integers, whether summed or not."""
    column, v, G = integers(S), integers(S), cotangent(S, S)
    for above, summed in ((0.0, False), (None, True)):
        columns, found = rectangles(G, summed)
        left = (windows(column, v, above, torch.float64) * G.cpu()).sum()
        assert left == (column * columns).sum() + (v * found).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once(dtype: torch.dtype) -> None:
    """A sum just beside a tie goes to its side, though float32 holds the tie itself; a tie goes to even."""
    S, u = 140, torch.finfo(dtype).eps / 2
    tie = (1 + u * torch.randint(0, 256, (S,)).double()) * (torch.randint(0, 2, (S,)) * 2 - 1)
    beside = 2.0**-40 * torch.randint(-1, 2, (S,)).double()
    scale = 2.0 ** torch.randint(-13, 15, (S,)).double()
    column = torch.cat([(tie + beside)[3:] * scale[3:], torch.tensor([NAN, -INF, 1e300]).double()])
    found = windows(column, torch.zeros(S).double(), None, dtype)
    assert same(found, nearest(column, dtype).expand(S, S))


@each_dtype
@pytest.mark.usefixtures("short_chunks")
def test_windows_within_the_bound(dtype: torch.dtype) -> None:
    """|error| is at most the bound of (window, float64), though the first term is huge (section 3)."""
    S = 22
    column, v = torch.randn(2, S).double(), -torch.rand(S).double() / 7
    v[1] = -1e18
    truth, info = naive_windows(column[0], v, 0.0), torch.finfo(dtype)
    M = naive_windows(column[0].abs(), v.abs(), 0.0)
    n = (torch.arange(S).unsqueeze(-1) - torch.arange(S)).clamp(min=0).double()
    e = gamma(n + 8) * M + (2 * n + 4) * torch.finfo(torch.float64).tiny
    floor = 2.0**-24 if dtype == torch.float16 else info.smallest_normal
    allowed = (1 + info.eps / 2) * e + info.eps / 2 * truth.abs() + floor + e  # and that of the truth
    found = windows(column[0], v, 0.0, dtype).double()
    held = truth.abs() < info.max / 2
    assert bool(((found - truth).abs() <= allowed)[held].all())
    assert bool((found == -INF)[truth < -2 * info.max].all())


@pytest.mark.usefixtures("short_chunks")
def test_rectangles_within_the_bound() -> None:
    """|error| is at most gamma(N + 16) A, N entries in the rectangle, though the others are huge."""
    S = 22
    G = torch.rand(S, S).double().to(DEVICE)
    G[S - 1, 0] = 1e18  # in every rectangle
    G[S // 2, S // 2] = 1e18  # in none
    G[:, S - 1] = 1e18  # in none
    truth = naive_rectangle_sum(G.cpu())
    k = torch.arange(S)
    assert bool(((rectangles(G, False)[1] - truth).abs() <= 2 * gamma(k * (S - k) + 16.0) * truth).all())
    G[S - 1, 0] = 0.5
    truth = naive_rectangle_sum(G.cpu())
    assert bool(((rectangles(G, False)[1] - truth).abs() <= 2 * gamma(k * (S - k) + 16.0) * truth).all())


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.usefixtures("short_chunks")
def test_poison_stays_in_its_windows_and_rectangles(poison: float) -> None:
    """Exactly the sums that hold a NaN or infinity are it."""
    S = 10
    for k in (0, 3, 4, S - 1):
        column, v, G = integers(S), integers(S), cotangent(S, S, summed=False)
        v[k] = poison
        assert same(windows(column, v, -INF, torch.float32), naive_windows(column, v, -INF).float())
        column[k // 2] = -poison
        assert same(windows(column, v, None, torch.bfloat16), naive_windows(column, v, None).bfloat16())
        G[k, k // 2] = poison  # on the diagonal for k = 0
        require_sums(G, False)


@each_summed
@pytest.mark.usefixtures("short_chunks")
def test_any_strides_of_G(summed: bool) -> None:
    """Transposed, sliced, expanded and permuted cotangents are read as their values."""
    S = 11
    wide = integers(2, 1, 2 * S + 1, 3 * S).float().to(DEVICE)
    kept = wide.clone()
    for G in (
        wide[:, :, :S, :S].mT,
        wide[:, :, 1 : S + 1, 1 : S + 1],
        wide[..., 1 : 2 * S : 2, 2 : 3 * S : 3],
        wide[0, 0, 0, 0].expand(2, S, S),
        wide[0, 0, 0, :S].expand(2, S, S),
        wide[0, 0, 0, :S, None].expand(S, S),
        wide[0, 0, :12].reshape(3, 2, 2, -1)[..., :9].reshape(3, 2, 2, 3, 3).permute(2, 1, 0, 3, 4),
    ):
        require_sums(G, summed)
    assert same(wide, kept)


@pytest.mark.usefixtures("short_chunks")
def test_any_strides_of_the_vectors() -> None:
    """Strided, expanded and transposed vectors are read as their values, and broadcast."""
    S = 11
    wide = integers(2 * S + 1, 3)
    kept = wide.clone()
    for column, v in (
        (wide[:S].T, wide[1 : 2 * S : 2].T),
        (wide[0, 0].expand(3, S), wide[:S].T),
        (wide[:S, 1], wide[:S, 2].expand(2, 3, S)),
    ):
        expected = naive_windows(column.expand(v.shape), v, -INF)
        assert same(windows(column, v, -INF, torch.float64), expected)
    assert same(wide, kept)


@pytest.mark.usefixtures("short_chunks")
@each_dtype
def test_out_is_written_and_nothing_beside_it(dtype: torch.dtype) -> None:
    """`out` may be part of a larger tensor, of any batch strides; the rest of that stays."""
    S, whole = 6, torch.full((4, 3, 5, 6 * 6 + 1), 7.0, dtype=dtype, device=DEVICE)
    out = whole[1:3, :, ::2, 1:].view(2, 3, 3, S, S).permute(2, 0, 1, 3, 4)  # (3, 2, 3, S, S)
    column, v = integers(3, 2, 3, S), integers(3, 2, 3, S)
    result = window_sums(column.to(DEVICE), v.to(DEVICE), 0.0, dtype, out=out)
    assert result is out
    assert same(out.cpu(), naive_windows(column, v, 0.0).to(dtype))
    out.fill_(7.0)
    assert bool((whole == 7.0).all())
    with pytest.raises(ValueError, match=r"out has shape .*; expected .*, contiguous in its last two"):
        window_sums(column.to(DEVICE), v.to(DEVICE), 0.0, dtype, out=out.mT)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 5), (2, 0, 5)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    """A length or a batch of 0 has results of that shape."""
    v = torch.zeros(shape).double()
    out = windows(v, v, -INF, torch.float16)
    assert (out.shape, out.dtype) == ((*shape, shape[-1]), torch.float16)
    for sums in rectangles(out.to(DEVICE), False):
        assert (sums.shape, sums.dtype) == (shape, torch.float64)


@pytest.mark.usefixtures("short_chunks")
def test_a_batch_may_need_several_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than one launch can hold is cut, and no matrix is left out."""
    monkeypatch.setattr(triton_kernels, "MOST_PROGRAMS", 10)  # and each matrix has 4
    column, v = integers(7, 7), integers(7, 7)
    assert same(windows(column, v, 0.0, torch.float64), naive_windows(column, v, 0.0))
    require_sums(cotangent(7, 7, 7), True)
    assert [batch.size for batch in triton_kernels._batches(torch.empty(7, 7, 7), 2)] == [1, 2, 2, 2]


def test_offsets_of_64_bits() -> None:
    """Matrices, rows and columns of G may lie 2^31 elements apart, and matrices of the output."""
    S, far = 3, 2**31 + 8
    room = torch.empty(3 * far, dtype=torch.float16, device=DEVICE)  # on a CPU mere addresses
    for stride in ((far, S, 1), (9, far // 2, 1), (9, 1, far // 2)):
        G = room.as_strided((2, S, S), stride)
        G.copy_(cotangent(2, S, S))
        require_sums(G, True)
    column, v = integers(2, S), integers(2, S)
    out = room.as_strided((2, S, S), (far, S, 1))
    window_sums(column.to(DEVICE), v.to(DEVICE), 0.0, torch.float16, out=out)
    assert same(out.cpu(), naive_windows(column, v, 0.0).half())


def test_the_same_bits_twice() -> None:
    """Two calls agree to the bit, of an output and sums that are rounded."""
    column, v, G = torch.randn(2, 30).double(), torch.randn(2, 30).double(), torch.randn(30, 30)
    assert torch.equal(*(windows(column, v, 0.0, torch.float32) for _ in range(2)))
    first, second = (rectangles(G.to(DEVICE), True) for _ in range(2))
    assert all(map(torch.equal, first, second))


@on_cuda
def test_no_waiting_and_graphs() -> None:
    """Neither map waits for the device, and both can be captured and replayed for other values."""
    S = 300
    column, v = integers(2, S).to(DEVICE), integers(2, S).to(DEVICE)

    def both() -> tuple[Tensor, Tensor, Tensor]:
        out = window_sums(column, v, 0.0, torch.float32)
        return out, *rectangle_sums(out, summed=True)

    both()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, columns, found = both()
    v.copy_(v.flip(-1))
    graph.replay()
    assert same(out.cpu(), naive_windows(column.cpu(), v.cpu(), 0.0).float())
    assert same(columns.cpu(), naive_columns(out.cpu(), True))
    assert same(found.cpu(), naive_rectangle_sum(out.cpu()))


@on_cuda
@each_summed
@pytest.mark.parametrize("dtype", DTYPES[1:3], ids=str)
def test_memory(dtype: torch.dtype, summed: bool) -> None:
    """At S = 2048 at most 3% of the output beyond it, and 6% of the cotangent for its sums."""
    column, v = (integers(2, 2048).to(DEVICE) for _ in range(2))
    window_sums(column, v, -INF, dtype)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = window_sums(column, v, -INF, dtype)
    size = out.numel() * out.element_size()
    assert torch.cuda.max_memory_allocated() - before <= 1.03 * size
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rectangle_sums(out, summed=summed)
    assert torch.cuda.max_memory_allocated() - before <= 0.06 * size

"""dtilde, segment_sum and rectangle_sum against integers, a triple loop, and themselves."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import dmat.torch_kernels as torch_kernels
from dmat import dtilde, rectangle_sum, segment_sum, vlstm_fwbw_Dtildemat
from dmat.operator import MaskedCotangent

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LENGTHS = [1, 2, 63, 64, 65, 127, 128, 129, 200]  # around the edges of a chunk of 64
MASKED: list[MaskedCotangent] = ["ignored", "summed"]

# Torch's own, on the first use of forward mode in a process.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_randomness(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give each test random numbers that depend on its name alone, and leave the generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(request.node.name.encode()))
        yield


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_length = pytest.mark.parametrize("S", LENGTHS)
each_masked = pytest.mark.parametrize("masked_cotangent", MASKED)


def past(S: int) -> Tensor:
    """Mask of the entries s <= t."""
    return torch.ones(S, S, dtype=torch.bool).tril()


def integers(*shape: int, largest: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    """Small integers of either sign."""
    return torch.randint(-largest, largest + 1, shape).to(dtype)


def gates(S: int, dtype: torch.dtype = torch.float64, scale: float = 4.0) -> tuple[Tensor, Tensor]:
    """Normal gates (2, 3, S, 1) that need a gradient."""
    i, f = (scale * torch.randn(2, 3, S, 1, dtype=torch.float64) for _ in "if")
    return i.to(dtype).requires_grad_(), f.to(dtype).requires_grad_()


def same(a: Tensor, b: Tensor) -> bool:
    """Equal values, NaN with NaN, whatever the sign of zero."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


# Truth: the formulas of docs/spec.md sections 1 and 2.


def naive_segment_sum(v: Tensor) -> Tensor:
    """Add up the windows of each s alone, (..., S) -> float64 (..., S, S)."""
    S, v = v.shape[-1], v.double()
    out = v.new_full((*v.shape, S), -INF)
    for s in range(S):
        out[..., s, s] = 0.0
        out[..., s + 1 :, s] = v[..., s + 1 :].cumsum(-1)
    return out


def naive_rectangle_sum(G: Tensor) -> Tensor:
    """Sum each rectangle of G alone, (..., S, S) -> float64 (..., S)."""
    G = G.double()
    return torch.stack([G[..., k:, :k].sum((-1, -2)) for k in range(G.shape[-1])], -1)


def log_sigmoid(f: float) -> float:
    """In float64, by the C library; its exp may not raise, so it gets no positive argument."""
    return min(f, 0.0) - math.log1p(math.exp(-abs(f)))


def sigmoid(f: float) -> float:
    """In float64, accurate at both ends."""
    return 1 / (1 + math.exp(-f)) if f >= 0 else math.exp(f) / (1 + math.exp(f))


def gamma(m: int) -> float:
    """(1 + u)^m - 1 of the accumulator, float64."""
    return math.expm1(m * math.log1p(2.0**-53))


def stored(e: float, value: float, dtype: torch.dtype) -> float:
    """Bound after rounding to dtype: (1 + u) e + u |value| + floor (docs/spec.md section 3)."""
    info = torch.finfo(dtype)
    floor = 2.0**-24 if dtype == torch.float16 else info.smallest_normal
    return (1 + info.eps / 2) * e + info.eps / 2 * abs(value) + floor


def forward_bound(i: float, window: list[float], value: float, dtype: torch.dtype) -> float:
    """Bound of class (window, float64) for one entry, M and C over the window alone."""
    n = len(window)
    M = abs(i) + math.fsum(abs(log_sigmoid(f)) for f in window)
    C = math.fsum(abs(f) * sigmoid(-f) for f in window)
    e = gamma(n + 8) * M + 3 * 2.0**-53 * C + (2 * n + 4) * torch.finfo(torch.float64).tiny
    return stored(e, value, dtype)


def gradient_bound(f: float, rectangle: list[float], value: float, dtype: torch.dtype) -> float:
    """Bound for one df[k], N and A over the non-zero cotangents of the rectangle alone."""
    N, A = sum(g != 0 for g in rectangle), math.fsum(map(abs, rectangle))
    relative = gamma(N + 16) + 3 * 2.0**-53 * abs(f) * sigmoid(f)
    e = relative * A * sigmoid(-f) + (A + 2 * N + 4) * torch.finfo(torch.float64).tiny
    return stored(e, value, dtype)


# The two linear maps.


@each_length
@each_dtype
def test_segment_sum_is_exact_on_integers(S: int, dtype: torch.dtype) -> None:
    """segment_sum(v)[t, s] = v[s+1] + .. + v[t], -inf for s > t, rounded once."""
    v = integers(2, S, dtype=dtype)
    assert same(segment_sum(v), naive_segment_sum(v).to(dtype))


@each_length
@each_dtype
def test_rectangle_sum_is_exact_on_integers(S: int, dtype: torch.dtype) -> None:
    """rectangle_sum(G)[k] = sum of G[t, s] over t >= k > s, rounded once."""
    G = integers(2, S, S, dtype=dtype)
    assert same(rectangle_sum(G), naive_rectangle_sum(G).to(dtype))


@pytest.mark.parametrize("piece", [1, 7, 300, 5000])
@pytest.mark.parametrize("S", [65, 150])
def test_pieces_change_nothing(S: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few elements are computed at a time, down to one row, both maps are exact on integers.

    And the workspace is no larger than a piece or a row, and a square on the diagonal.
    """
    monkeypatch.setattr(torch_kernels, "PIECE", piece)
    largest = Largest()  # type: ignore[no-untyped-call]
    v, G = integers(2, 3, S), integers(2, 3, S, S, dtype=torch.float32)
    with largest:
        sums, (columns, rectangles) = segment_sum(v), torch_kernels.rectangle_sums(G, summed=True)
    assert same(sums, naive_segment_sum(v))
    assert same(columns, G.double().sum(-2))
    assert same(rectangles, naive_rectangle_sum(G).double())
    assert largest.new <= max(piece, torch_kernels.BASE**2, torch_kernels.padded(S) * 6)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most elements of a new tensor that calls got, outputs of shape (.., S, S) left out."""

    new = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.new_empty.default and result.dim() == 1:
            self.new = max(self.new, result.numel())
        return result


@each_length
def test_the_pair_is_adjoint(S: int) -> None:
    """<segment_sum(v), G> = <v, rectangle_sum(G)>, in integers."""
    v, G = integers(2, S), integers(2, S, S)
    left = (segment_sum(v)[..., past(S)] * G[..., past(S)]).sum()
    assert left == (v * rectangle_sum(G)).sum()


@pytest.mark.parametrize("S", [5, 65, 200])
def test_each_is_the_derivative_of_the_other(S: int) -> None:
    """Backward of segment_sum is rectangle_sum, and the other way; a tangent's future is 0."""
    v, G = integers(2, S).requires_grad_(), integers(2, S, S).requires_grad_()
    h = integers(2, S)
    (dv,) = torch.autograd.grad(segment_sum(v), v, G.detach())
    (dG,) = torch.autograd.grad(rectangle_sum(G), G, h)
    assert same(dv, rectangle_sum(G).detach())
    assert same(dG, torch.where(past(S), segment_sum(h), 0.0))
    assert same(dG, jvp(segment_sum, (v,), (h,))[1].detach())
    assert same(rectangle_sum(G), jvp(rectangle_sum, (h.diag_embed(),), (G,))[1])


@pytest.mark.parametrize("S", [5, 65, 200])
@pytest.mark.parametrize("poison", [NAN, INF, -INF])
def test_poison_stays_in_its_windows_and_rectangles(S: int, poison: float) -> None:
    """Exactly the sums that hold a NaN or infinity are it; the future of G is not read."""
    v, G = integers(S), integers(S, S)
    for k in (0, S // 3, S - 1):
        v[k] = poison
        assert same(segment_sum(v), naive_segment_sum(v))
        v[k] = 0.0
        G[k, k // 2] = poison  # one entry on or below the diagonal
        G[~past(S)] = NAN
        assert same(rectangle_sum(G), naive_rectangle_sum(G))
        G[k, k // 2] = 0.0


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 5), (3,), (2, 3, 4, 5)])
def test_any_batch_shape(shape: tuple[int, ...]) -> None:
    """(..., S) -> (..., S, S) -> (..., S), for zero lengths too."""
    v = torch.zeros(shape)
    assert segment_sum(v).shape == (*shape, shape[-1])
    assert rectangle_sum(segment_sum(v)).shape == shape


def test_segment_errors_name_the_argument() -> None:
    """TypeError and ValueError say what was given."""
    with pytest.raises(TypeError, match=r"v has dtype torch.int64; expected one of torch.float64"):
        segment_sum(torch.arange(3))
    with pytest.raises(ValueError, match=r"v has shape \(\); expected \(..., S\)"):
        segment_sum(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"G has shape \(2, 3\); expected \(..., S, S\)"):
        rectangle_sum(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"G is a list; expected a torch.Tensor"):
        rectangle_sum([[1.0]])  # type: ignore[arg-type]


# D~ itself.


@pytest.mark.parametrize("B", [0, 2])
@pytest.mark.parametrize("NH", [0, 3])
@pytest.mark.parametrize("S", [0, 1, 5, 65])
@each_dtype
def test_shape_dtype_and_gradients(B: int, NH: int, S: int, dtype: torch.dtype) -> None:
    """(B, NH, S, 1) -> (B, NH, S, S) of the same dtype, and gradients like the gates."""
    i, f = (torch.zeros(B, NH, S, 1, dtype=dtype, requires_grad=True) for _ in "if")
    D = dtilde(i, f)
    assert (D.shape, D.dtype) == ((B, NH, S, S), dtype)
    for gradient in torch.autograd.grad(D, (i, f), torch.ones_like(D)):
        assert (gradient.shape, gradient.dtype) == ((B, NH, S, 1), dtype)


@pytest.mark.parametrize("S", [3, 63, 65, 129])
@each_dtype
def test_exact_regime(S: int, dtype: torch.dtype) -> None:
    """Where f <= -64 is a multiple of 64, D~ and its gradients are integers (spec section 4)."""
    f = -64.0 * torch.randint(1, 3, (2, 3, S, 1))
    if dtype == torch.bfloat16:  # 8 bits hold the sum over 256 / 64 closed gates, so open most
        f = torch.where(torch.arange(S).reshape(S, 1) % 64 == 2, f / f.abs() * 64, INF)
    i, f = (64 * integers(2, 3, S, 1)).to(dtype), f.to(dtype)
    l = f.clamp(max=0.0).squeeze(-1)  # noqa: E741
    i.requires_grad_(), f.requires_grad_()
    G = integers(2, 3, S, S, largest=1, dtype=dtype)
    D = dtilde(i, f)
    di, df = torch.autograd.grad(D, (i, f), G)
    R = naive_rectangle_sum(G) * (f.squeeze(-1) < 0)
    assert same(D, (naive_segment_sum(l) + i.mT).to(dtype))
    assert same(df.squeeze(-1), R.to(dtype))
    assert same(di.squeeze(-1), G.double().tril().sum(-2).to(dtype))


REGIMES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda z: 4 * z,
    "saturated": lambda z: 300 * z,
    "open": lambda z: 90 + z,
    "edges": lambda z: torch.where(z > 0, 20.0, -33.0),
    "huge": lambda z: torch.where(z > 1.5, z, -1e4 * z.abs()),
    "zero": lambda z: 0 * z,
}


@pytest.mark.parametrize("S", [5, 70])
@pytest.mark.parametrize("regime", REGIMES)
@each_dtype
def test_values_within_the_bound(S: int, regime: str, dtype: torch.dtype) -> None:
    """|D~ - triple loop| is at most the bound of the operator and that of the loop, both class
    (window, float64)."""
    z = torch.randn(S, dtype=torch.float64)
    f = REGIMES[regime](z).to(dtype)
    i = torch.randn(S, dtype=torch.float64).to(dtype)
    D = dtilde(i.reshape(1, 1, S, 1), f.reshape(1, 1, S, 1)).reshape(S, S).tolist()
    fgate, igate = f.tolist(), i.tolist()
    decays = list(map(log_sigmoid, fgate))
    for t in range(S):
        for s in range(t + 1):
            value = math.fsum([igate[s], *decays[s + 1 : t + 1]])
            allowed = 2 * forward_bound(igate[s], fgate[s + 1 : t + 1], value, dtype)
            if abs(value) + allowed < torch.finfo(dtype).max:
                assert abs(D[t][s] - value) <= allowed, (t, s)
        assert D[t][t] == igate[t]
        assert D[t][t + 1 :] == [-INF] * (S - t - 1)


@pytest.mark.parametrize("S", [5, 70])
@pytest.mark.parametrize("regime", REGIMES)
@each_dtype
def test_gradients_within_the_bound(S: int, regime: str, dtype: torch.dtype) -> None:
    """|df - R sigmoid(-f)| is at most the bound of both; df[0] is exactly 0."""
    f = REGIMES[regime](torch.randn(S, dtype=torch.float64)).to(dtype).reshape(1, 1, S, 1)
    i = torch.zeros_like(f)
    f.requires_grad_()
    G = (100 * torch.randn(S, S, dtype=torch.float64)).to(dtype)
    (df,) = torch.autograd.grad(dtilde(i, f), f, G.reshape(1, 1, S, S))
    for k, gate in enumerate(f.flatten().tolist()):
        rectangle = G[k:, :k].flatten().tolist()
        value = math.fsum(rectangle) * sigmoid(-gate)
        allowed = 2 * gradient_bound(gate, rectangle, value, dtype)
        assert abs(df[0, 0, k, 0].item() - value) <= allowed, k
    assert df[0, 0, 0, 0] == 0


@pytest.mark.parametrize("magnitude", [5e-324, 1e-310, 1e307, 1.5e308])
def test_the_ends_of_float64(magnitude: float) -> None:
    """f subnormal gives -log 2, and f = -1e308 gives itself, with derivatives 1/2 and 1 or 0."""
    f = torch.tensor([0.0, magnitude, -magnitude], dtype=torch.float64)
    f = f.reshape(1, 1, 3, 1).requires_grad_()
    D = dtilde(torch.zeros_like(f), f)
    G = torch.zeros_like(D)
    G[..., 2, 0] = 1.0
    (df,) = torch.autograd.grad(D, f, G)
    small = magnitude < 1
    expected = [0.0, 0.5, 0.5] if small else [0.0, 0.0, 1.0]
    assert D[0, 0, 1, 0] == (-math.log(2) if small else 0.0)
    assert D[0, 0, 2, 1] == (-math.log(2) if small else -magnitude)
    assert df.flatten().tolist() == expected


@pytest.mark.parametrize("S", [5, 65, 150])
def test_extended_reals(S: int) -> None:
    """f = +inf keeps, f = -inf resets, NaN and infinite gates are read where the formula reads."""
    for k in (1, S // 2, S - 1):
        for poison in (INF, -INF, NAN):
            i, f = integers(1, 1, S, 1), torch.full((1, 1, S, 1), INF, dtype=torch.float64)
            f[0, 0, k] = poison
            l = f.squeeze(-1).clamp(max=0.0)  # noqa: E741
            assert same(dtilde(i, f), naive_segment_sum(l) + i.mT)
            f[0, 0, k] = INF
            i[0, 0, k] = poison
            expected = torch.where(past(S), i.mT.expand(1, 1, S, S), -INF)
            assert same(dtilde(i, f), expected)


@each_dtype
def test_gradients_are_finite_at_infinite_gates(dtype: torch.dtype) -> None:
    """df = R where f = -inf, 0 where f = +inf, and a NaN gate has none of the others' gradients."""
    f = torch.tensor([0.0, INF, -INF, NAN, -64.0], dtype=dtype).reshape(1, 1, 5, 1).requires_grad_()
    i = torch.tensor([INF, -INF, NAN, 0.0, 0.0], dtype=dtype).reshape(1, 1, 5, 1).requires_grad_()
    D = dtilde(i, f)
    di, df = torch.autograd.grad(D, (i, f), torch.ones_like(D))
    assert di.flatten().tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert same(df.flatten(), torch.tensor([0.0, 0.0, 6.0, NAN, 4.0], dtype=dtype))


@each_masked
@pytest.mark.parametrize("S", [5, 65])
def test_masked_cotangents(masked_cotangent: MaskedCotangent, S: int) -> None:
    """Above the diagonal G is not read, or goes to the input gate of its column alone."""
    i, f = gates(S)
    G = integers(2, 3, S, S)
    if masked_cotangent == "ignored":
        G[..., ~past(S)] = NAN
    D = dtilde(i, f, masked_cotangent=masked_cotangent)
    di, df = torch.autograd.grad(D, (i, f), G)
    read = torch.where(past(S), G, 0.0)
    _, expected = torch.autograd.grad(dtilde(i, f), (i, f), read)
    assert same(di.squeeze(-1), (read if masked_cotangent == "ignored" else G).sum(-2))
    assert same(df, expected)


def test_the_notebooks_name_sums() -> None:
    """vlstm_fwbw_Dtildemat is dtilde with masked_cotangent="summed"."""
    i, f = gates(5)
    D = vlstm_fwbw_Dtildemat(i, f)
    assert same(D, dtilde(i, f))
    assert bool((torch.autograd.grad(D.sum(), i)[0] == 5).all())


@pytest.mark.parametrize("S", [5, 65])
def test_strided_gates_and_cotangents(S: int) -> None:
    """Transposed, sliced and expanded tensors are read as their values and not written to."""
    # Any order of summing integers is exact, so layouts must agree bit for bit.
    base = -64 * torch.randint(1, 3, (S, 2, 3, 5)).double()
    i = base[..., 1:2].permute(1, 2, 0, 3)
    f = base[:, :1, :, 4:].expand(S, 2, 3, 1).permute(1, 2, 0, 3)
    kept = base.clone()
    cotangents = (
        integers(2, S, S, 3).permute(0, 3, 2, 1),
        torch.ones(()).double().expand(2, 3, S, S),
    )
    for G in cotangents:
        plain = i.contiguous().requires_grad_(), f.contiguous().requires_grad_()
        strided = i.detach().requires_grad_(), f.detach().requires_grad_()
        expected = torch.autograd.grad(dtilde(*plain), plain, G.contiguous())
        found = torch.autograd.grad(dtilde(*strided), strided, G)
        assert same(dtilde(i, f), dtilde(*plain))
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    assert same(base, kept)


@pytest.mark.parametrize("S", [1, 65])
@each_dtype
def test_output_shares_no_memory(S: int, dtype: torch.dtype) -> None:
    """Neither D~ nor a gradient is a view of what went in."""
    i, f = gates(S, dtype)
    D = dtilde(i, f)
    G = torch.ones_like(D)
    gradients = torch.autograd.grad(D, (i, f), G)
    storages = [x.untyped_storage().data_ptr() for x in (i, f, D, G, *gradients)]
    assert len(set(storages)) == len(storages)


# Derivatives of every order and mode, on causal entries: a finite difference of -inf is NaN.


@each_masked
@pytest.mark.parametrize("S", [1, 4])
def test_gradcheck(masked_cotangent: MaskedCotangent, S: int) -> None:
    """First and second derivatives agree with finite differences, both modes, batched too."""
    i, f = (torch.randn(1, 2, S, 1, dtype=torch.float64, requires_grad=True) for _ in "if")

    def causal(i: Tensor, f: Tensor) -> Tensor:
        return dtilde(i, f, masked_cotangent=masked_cotangent)[..., past(S)]

    assert torch.autograd.gradcheck(
        causal, (i, f), check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(causal, (i, f), check_fwd_over_rev=True, check_rev_over_rev=True)


def test_gradcheck_across_chunks() -> None:
    """The same for sequences of two chunks, along random directions."""
    i, f = (torch.randn(1, 1, 66, 1, dtype=torch.float64, requires_grad=True) for _ in "if")

    def causal(i: Tensor, f: Tensor) -> Tensor:
        return dtilde(i, f)[..., past(66)]

    assert torch.autograd.gradcheck(causal, (i, f), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(causal, (i, f), check_fwd_over_rev=True, fast_mode=True)


@each_masked
@pytest.mark.parametrize("S", [5, 65, 150])
def test_forward_mode_is_adjoint_to_reverse_mode(masked_cotangent: MaskedCotangent, S: int) -> None:
    """<J (di, df), G> = <(di, df), J' G>, exactly, where sigmoid(-f) is 1."""
    i, f = integers(1, 2, S, 1), torch.full((1, 2, S, 1), -64.0, dtype=torch.float64)
    tangents, G = (integers(1, 2, S, 1), integers(1, 2, S, 1)), integers(1, 2, S, S)

    def operator(i: Tensor, f: Tensor) -> Tensor:
        return dtilde(i, f, masked_cotangent=masked_cotangent)

    forward = jvp(operator, (i, f), tangents)[1]
    pullback = torch.func.vjp(operator, i, f)[1]
    reverse = [(a * b).sum() for a, b in zip(tangents, pullback(G), strict=True)]
    assert (forward * G).sum() == reverse[0] + reverse[1]


@pytest.mark.parametrize("S", [5, 65])
def test_vmap(S: int) -> None:
    """A vmapped dimension is one more batch, wherever it stands and for one input alone."""
    i, f = (x.detach() for x in gates(S))
    every = dtilde(i, f)
    assert same(vmap(dtilde, in_dims=2, out_dims=1)(i.unsqueeze(2), f.unsqueeze(2))[:, 0], every)
    shared = vmap(dtilde, in_dims=(None, 0))(i, torch.stack([f, -f]))
    assert same(shared[0], every)
    assert same(shared[1], dtilde(i, -f))


def test_vmap_of_grad_is_the_gradient_of_each() -> None:
    """torch.func.grad under vmap gives, head by head, what backward gives at once."""
    i, f = gates(5)

    def loss(i: Tensor, f: Tensor) -> Tensor:
        return (2 * dtilde(i, f)[..., past(5)]).sum()

    expected = torch.autograd.grad(loss(i, f), (i, f))
    alone = vmap(grad(loss, (0, 1)))(i.detach().unsqueeze(1), f.detach().unsqueeze(1))
    assert all(same(a.squeeze(1), b) for a, b in zip(alone, expected, strict=True))


@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
def test_modes_nest(
    outer: Callable[..., Callable[..., Tensor]], inner: Callable[..., Callable[..., Tensor]]
) -> None:
    """Any mode in any mode: at f = 0 log sigmoid'' = -1/4, exactly, so d2 sum(D~) = -R / 4."""
    f = torch.zeros(4, dtype=torch.float64)

    def loss(f: Tensor) -> Tensor:
        D = dtilde(torch.zeros(1, 1, 4, 1, dtype=torch.float64), f.reshape(1, 1, 4, 1))
        return torch.where(past(4), D, 0.0).sum()

    assert same(outer(inner(loss))(f), -torch.tensor([0.0, 3.0, 4.0, 3.0]).double().diag() / 4)


def test_one_input_may_need_a_gradient_without_the_other() -> None:
    """The gradient of one gate does not depend on whether the other has one."""
    i, f = gates(65)
    di, df = torch.autograd.grad(dtilde(i, f)[..., past(65)].sum(), (i, f))
    assert same(torch.autograd.grad(dtilde(i, f.detach())[..., past(65)].sum(), i)[0], di)
    assert same(torch.autograd.grad(dtilde(i.detach(), f)[..., past(65)].sum(), f)[0], df)


# Bad input.

GATE = torch.zeros(2, 3, 5, 1)
BAD_GATES = {
    "no tensor": (TypeError, "igate_preact is a float; expected a torch.Tensor", 1.0, GATE),
    "integers": (TypeError, "igate_preact has dtype torch.int64", GATE.long(), GATE.long()),
    "bool": (TypeError, "igate_preact has dtype torch.bool", GATE.bool(), GATE.bool()),
    "complex": (
        TypeError,
        "fgate_preact has dtype torch.complex64",
        GATE,
        GATE.to(torch.complex64),
    ),
    "float8": (TypeError, "torch.float8_e5m2; expected", GATE, GATE.to(torch.float8_e5m2)),
    "dtypes": (
        TypeError,
        "fgate_preact has dtype torch.float64; expected torch.float32, the dtype of igate_preact",
        GATE,
        GATE.double(),
    ),
    "rank": (
        ValueError,
        r"igate_preact has shape \(3, 5, 1\); expected \(B, NH, S, 1\)",
        GATE[0],
        GATE,
    ),
    "last": (ValueError, r"fgate_preact has shape \(2, 3, 1, 5\); expected", GATE, GATE.mT),
    "shapes": (
        ValueError,
        r"fgate_preact has shape \(2, 1, 5, 1\); expected \(2, 3, 5, 1\), the shape of igate",
        GATE,
        GATE[:, :1],
    ),
    "devices": (ValueError, "device meta; expected cpu, the device of", GATE, GATE.to("meta")),
}


@pytest.mark.parametrize("bad", BAD_GATES)
def test_bad_gates_are_refused(bad: str) -> None:
    """The message names the argument, shows its value, and says what was expected."""
    error, message, i, f = BAD_GATES[bad]
    with pytest.raises(error, match=message):
        dtilde(i, f)  # type: ignore[arg-type]


def test_unknown_masked_cotangent_is_refused() -> None:
    """So is an unknown option."""
    with pytest.raises(ValueError, match='masked_cotangent is \'add\'; expected "ignored" or "sum'):
        dtilde(GATE, GATE, masked_cotangent="add")  # type: ignore[arg-type]


def test_an_output_beyond_memory_is_refused() -> None:
    """10^7 squared float32 numbers, 364 TiB, are not tried."""
    gate = torch.zeros(1, 1, 1, 1).expand(1, 1, 10**7, 1)
    with pytest.raises(ValueError, match=r"needs 372529.0 GiB, and cpu has \d+\.\d GiB"):
        dtilde(gate, gate)

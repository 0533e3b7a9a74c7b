"""Right implementations of D~ in different styles, each with the contract that it keeps."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid, pad, softplus
from torch.utils.checkpoint import checkpoint

from dmat.testing import from_segment_sum, implementation

Dtilde = Callable[[Tensor, Tensor], Tensor]  # (igate_preact, fgate_preact) -> D~
Gradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # (G, i, f) -> (di, df)

Tangent = Callable[[Tensor, Tensor, Tensor], Tensor]  # (i_dot, f_dot, f) -> J v

SOUND: list[Dtilde] = []
LOG2_E, LN_2 = 1 / math.log(2), math.log(2)


def sound(**contract: Any) -> Callable[[Dtilde], Dtilde]:
    """Register an implementation under its contract; without arguments, the strictest one."""

    def register(dtilde: Dtilde) -> Dtilde:
        SOUND.append(implementation(**contract)(dtilde))
        return dtilde

    return register


# Shared by most styles: widening, the mask, the log gate, the input gate.


def widen(x: Tensor) -> Tensor:
    """Return x in the accumulator's format: float32 for half types, else the dtype of x."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def causal(x: Tensor, diagonal: int = 0) -> Tensor:
    """The mask s <= t + diagonal, (S, S), for the length of x's last axis."""
    S = x.shape[-1]
    return torch.ones(S, S, dtype=torch.bool, device=x.device).tril(diagonal)


def times(x: Tensor) -> Tensor:
    """0 .. S-1, for the length of x's last axis."""
    return torch.arange(x.shape[-1], device=x.device)


def log_decays(fgate_preact: Tensor) -> Tensor:
    """l = log sigmoid(f), (B, NH, S), in the accumulator's format."""
    return logsigmoid(widen(fgate_preact).squeeze(-1))


def window_sums(log_f: Tensor) -> Tensor:
    """Sum of l over s+1 .. t, (..., S, S): each column a cumulative sum that starts with zeros."""
    return torch.where(causal(log_f, -1), log_f.unsqueeze(-1), 0.0).cumsum(-2)


def dress(windows: Tensor, igate_preact: Tensor) -> Tensor:
    """Return D~ from its window sums: add the input gate to each column, mask, round once."""
    dtilde = windows + widen(igate_preact).mT
    return dtilde.masked_fill(~causal(dtilde), -torch.inf).to(igate_preact.dtype)


# The closed form of the gradient, with additions only.


def rectangle_sum(G: Tensor) -> Tensor:
    """R[k] = sum over t >= k > s of G[t, s]: rows up to k, then down the column."""
    rows = pad(G, (1, 0))[..., :-1].cumsum(-1)  # (t, k): sum over s < k
    return torch.where(causal(G), rows, 0.0).sum(-2)


def input_gradient(G: Tensor, igate_preact: Tensor) -> Tensor:
    """di[s] = sum over t >= s of G[t, s]."""
    causal_G = torch.where(causal(G), widen(G), 0.0)
    return causal_G.sum(-2).unsqueeze(-1).to(igate_preact.dtype)


def forget_gradient(G: Tensor, fgate_preact: Tensor) -> Tensor:
    """df[k] = R[k] sigmoid(-f[k])."""
    slope = torch.sigmoid(-widen(fgate_preact))
    return (rectangle_sum(widen(G)).unsqueeze(-1) * slope).to(fgate_preact.dtype)


def gradient(G: Tensor, igate_preact: Tensor, fgate_preact: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients, as spec section 2 writes them."""
    return input_gradient(G, igate_preact), forget_gradient(G, fgate_preact)


class _WithGradient(torch.autograd.Function):
    """A given forward and a given gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        igate_preact: Tensor,
        fgate_preact: Tensor,
        forward: Dtilde,
        gradient: Gradient,
    ) -> Tensor:
        ctx.save_for_backward(igate_preact, fgate_preact)
        ctx.gradient = gradient
        return forward(igate_preact, fgate_preact)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *ctx.gradient(G, *ctx.saved_tensors), None, None


class _WithGradientOnce(_WithGradient):
    """_WithGradient for a gradient computed outside torch: a second derivative is refused."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return _WithGradient.backward(ctx, G)


def with_gradient(forward: Dtilde, gradient: Gradient, once: bool = False) -> Dtilde:
    """The implementation with this forward and this gradient."""
    function = _WithGradientOnce if once else _WithGradient

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return function.apply(igate_preact, fgate_preact, forward, gradient)  # type: ignore

    return dtilde


# Window scope: sums of the gates in the window only.


@sound(transforms=("vmap", "export", "autocast"))
def masked_cumulative_sum(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Cumulative sums down the columns; the gates before s are masked."""
    return dress(window_sums(log_decays(fgate_preact)), igate_preact)


@sound(accumulates_in="float64")
def masked_cumulative_sum_wide(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """masked_cumulative_sum, accumulated in float64 for every dtype."""
    return dress(window_sums(log_decays(fgate_preact.double())), igate_preact)


@sound()
def masked_cumulative_sum_along_rows(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Cumulative sums from the diagonal to the left, the gates after t masked away."""
    log_f = log_decays(fgate_preact)
    masked = torch.where(causal(log_f), log_f.unsqueeze(-2), 0.0)  # (t, k)
    after = pad(masked, (0, 1))[..., 1:]  # (t, s): log_f[s + 1]
    return dress(after.flip(-1).cumsum(-1).flip(-1), igate_preact)


@sound()
def word_by_word(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The definition: for each t and s select the window, and sum it."""
    log_f = log_decays(fgate_preact)
    s, k = times(log_f).unsqueeze(-1), times(log_f)
    rows = [log_f.unsqueeze(-2)[..., :0, :]]  # (B, NH, 0, S)
    for t in range(log_f.shape[-1]):
        window = torch.where((s < k) & (k <= t), log_f.unsqueeze(-2), 0.0)  # (B, NH, s, k)
        rows.append(window.sum(-1).unsqueeze(-2))
    return dress(torch.cat(rows, -2), igate_preact)


@sound(transforms=("vmap", "autocast"))
def row_recurrence(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~[t] is D~[t-1] plus one log gate, with the input gate put in at s = t."""
    log_f = log_decays(fgate_preact)
    i, row = widen(igate_preact).squeeze(-1), torch.zeros_like(log_f)
    rows = [row.unsqueeze(-2)[..., :0, :]]
    for t in range(log_f.shape[-1]):
        row = torch.where(times(log_f) == t, i, row + log_f[..., t : t + 1])
        rows.append(row.unsqueeze(-2))
    dtilde = torch.cat(rows, -2)
    return dtilde.masked_fill(~causal(log_f), -torch.inf).to(igate_preact.dtype)


@sound()
def column_recurrence(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Column s is column s+1 plus one log gate, from the last column to the first."""
    log_f = log_decays(fgate_preact)
    column = torch.zeros_like(log_f)
    columns = [column.unsqueeze(-1)[..., :0]]
    for s in reversed(range(log_f.shape[-1])):
        columns.append(column.unsqueeze(-1))
        column = torch.where(times(log_f) >= s, column + log_f[..., s : s + 1], 0.0)
    return dress(torch.cat(columns, -1).flip(-1), igate_preact)


@sound()
def diagonal_recurrence(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Windows of n+1 gates are windows of n and one gate more: diagonal by diagonal, in place."""
    log_f, diagonal = log_decays(fgate_preact), widen(igate_preact).squeeze(-1)
    S = log_f.shape[-1]
    dtilde = log_f.new_full((*log_f.shape, S), -torch.inf)
    for n in range(S):
        dtilde.diagonal(-n, -2, -1).copy_(diagonal)
        diagonal = diagonal[..., :-1] + log_f[..., n + 1 :]
    return dtilde.to(igate_preact.dtype)


@sound(special_values={"+inf"})
def compensated_recurrence(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Row recurrence that carries each addition's rounding error along; a reset makes it NaN."""
    log_f = log_decays(fgate_preact)
    total, lost = torch.zeros_like(log_f), torch.zeros_like(log_f)
    rows = [total.unsqueeze(-2)[..., :0, :]]
    for t in range(log_f.shape[-1]):
        gate = torch.where(times(log_f) < t, log_f[..., t : t + 1], 0.0)
        wide = total + gate
        part = wide - total
        lost = lost + ((total - (wide - part)) + (gate - part)).detach()
        total = wide
        rows.append((total + lost).unsqueeze(-2))
    return dress(torch.cat(rows, -2), igate_preact)


@sound(transforms=("compile", "export"))
def doubling_scan(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Hillis and Steele's scan down every column at once: steps of 1, 2, 4, ..."""
    log_f = log_decays(fgate_preact)
    S, step = log_f.shape[-1], 1
    windows = torch.where(causal(log_f, -1), log_f.unsqueeze(-1), 0.0)
    while step < S:
        windows = windows + pad(windows[..., :-step, :], (0, 0, step, 0))
        step *= 2
    return dress(windows, igate_preact)


@sound()
def binary_lifting(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The window's length in binary: one table of 2^j gates for each bit that is set."""
    log_f = log_decays(fgate_preact)
    end = times(log_f).unsqueeze(-1).expand(log_f.shape[-1], log_f.shape[-1])
    length = (end - times(log_f)).clamp(min=0)
    windows, table, step = (
        torch.zeros_like(log_f).unsqueeze(-1),
        log_f,
        1,
    )  # table[t]: the last `step`
    while step < max(log_f.shape[-1], 2):
        bit = length & step > 0
        windows = windows + torch.where(bit, table[..., end], 0.0)
        end = torch.where(bit, end - step, end)
        table = table + pad(table, (step, 0))[..., : log_f.shape[-1]]
        step *= 2
    return dress(windows, igate_preact)


def _halve(log_f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if log_f.shape[-1] < 2:
        return log_f.new_zeros(*log_f.shape, log_f.shape[-1]), log_f, torch.zeros_like(log_f)
    middle = log_f.shape[-1] // 2
    early, early_from_start, early_to_end = _halve(log_f[..., :middle])
    late, late_from_start, late_to_end = _halve(log_f[..., middle:])
    across = late_from_start.unsqueeze(-1) + early_to_end.unsqueeze(-2)
    windows = torch.cat(
        [torch.cat([early, torch.zeros_like(across).mT], -1), torch.cat([across, late], -1)], -2
    )
    from_start = torch.cat([early_from_start, early_from_start[..., -1:] + late_from_start], -1)
    to_end = torch.cat([early_to_end + late_from_start[..., -1:], late_to_end], -1)
    return windows, from_start, to_end


@sound()
def recursive_halving(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Two halves, and between them (to the end of the first) + (from the start of the second)."""
    windows, _, _ = _halve(log_decays(fgate_preact))
    return dress(windows, igate_preact)


def chunked(log_f: Tensor, C: int) -> Tensor:
    """(..., n, C), zeros behind the last gate."""
    n = -(-log_f.shape[-1] // C)
    return pad(log_f, (0, n * C - log_f.shape[-1])).reshape(*log_f.shape[:-1], n, C)


def _tiles(near: Tensor, from_start: Tensor, to_end: Tensor, totals: Tensor) -> Tensor:
    """Assemble window sums from tiles, (S, S).

    A tile on the diagonal is `near`. Any other entry is the sum to the end of s's chunk, over the chunks
    between, and from the start of t's chunk to t.
    """
    after = torch.where(causal(totals, -1), totals.unsqueeze(-1), 0.0)
    between = pad(after, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)  # (n, n)
    far = from_start[..., None, None] + between[..., :, None, :, None]
    far = far + to_end[..., None, None, :, :]  # (n, C, n, C)
    same = torch.eye(totals.shape[-1], dtype=torch.bool, device=totals.device)[:, None, :, None]
    return torch.where(same, near.unsqueeze(-2), far).flatten(-4, -3).flatten(-2)


def chunkwise_sums(log_f: Tensor, C: int) -> Tensor:
    """Window sums by chunks of C, with differences of cumulative sums inside a chunk."""
    total, S = chunked(log_f, C).cumsum(-1), log_f.shape[-1]
    near = total.unsqueeze(-1) - total.unsqueeze(-2)
    return _tiles(near, total, total[..., -1:] - total, total[..., -1])[..., :S, :S]


@sound()
def chunkwise(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Chunks of 16: prefixes, suffixes and totals of chunks, never a difference."""
    log_f = log_decays(fgate_preact)
    chunks, S = chunked(log_f, 16), log_f.shape[-1]
    from_start = chunks.cumsum(-1)
    to_end = pad(chunks, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)
    tiles = _tiles(window_sums(chunks), from_start, to_end, from_start[..., -1])
    return dress(tiles[..., :S, :S], igate_preact)


@sound()
def closed_form_backward(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The gradient by spec section 2 in place of autograd's."""
    return with_gradient(masked_cumulative_sum, gradient)(igate_preact, fgate_preact)


class _WithTangent(torch.autograd.Function):
    """A given forward mode, and the closed form of the gradient."""

    @staticmethod
    def forward(igate_preact: Tensor, fgate_preact: Tensor, tangent: Tangent) -> Tensor:
        return masked_cumulative_sum(igate_preact, fgate_preact)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.tangent = inputs[2]

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None]:
        return *gradient(G, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, igate_dot: Tensor, fgate_dot: Tensor, _: None) -> Tensor:
        moved: Tensor = ctx.tangent(igate_dot, fgate_dot, ctx.saved_tensors[1])
        return moved


def with_tangent(igate_preact: Tensor, fgate_preact: Tensor, tangent: Tangent) -> Tensor:
    """D~ whose forward mode is this function (igate_dot, fgate_dot, fgate_preact) -> J v."""
    return _WithTangent.apply(igate_preact, fgate_preact, tangent)  # type: ignore


def tangent(igate_dot: Tensor, log_dot: Tensor) -> Tensor:
    """Return J v from the tangents of the input gates and the log gates, (B, NH, S, 1) each."""
    windows = window_sums(log_dot.squeeze(-1)) + widen(igate_dot).mT
    return torch.where(causal(windows), windows, 0.0).to(igate_dot.dtype)


@sound()
def forward_mode_of_its_own(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Forward mode by the closed form, as the gradient."""
    return with_tangent(
        igate_preact,
        fgate_preact,
        lambda i_dot, f_dot, f: tangent(i_dot, widen(f_dot) * torch.sigmoid(-widen(f))),
    )


@sound()
def differentiable_once(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A gradient that refuses to be differentiated, marked by once_differentiable."""
    return with_gradient(masked_cumulative_sum, gradient, once=True)(igate_preact, fgate_preact)


@sound()
def checkpointed(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Recomputed in the backward by torch.utils.checkpoint."""
    recomputed: Tensor = checkpoint(masked_cumulative_sum, igate_preact, fgate_preact, use_reentrant=False)
    return recomputed


@sound()
def head_by_head(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """One matrix for each batch and head, stacked."""
    B, NH, S, _ = igate_preact.shape
    heads = zip(igate_preact.flatten(0, 1), fgate_preact.flatten(0, 1), strict=True)
    matrices = [masked_cumulative_sum(i, f) for i, f in heads]
    return torch.cat([igate_preact.new_empty(0), *(D.flatten() for D in matrices)]).reshape(B, NH, S, S)


@sound()
def flush_to_zero(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Subnormals of the accumulator are zeros, on every load and store, cotangents included."""
    log_f = _flush(logsigmoid(_flush(widen(fgate_preact)).squeeze(-1)))
    dtilde = _flush(_flush(window_sums(log_f)) + _flush(widen(igate_preact)).mT)
    return dtilde.masked_fill(~causal(log_f), -torch.inf).to(igate_preact.dtype)


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@sound()
def hardware_flush(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """flush_to_zero by the processor's mode, torch.set_flush_denormal, in forward and backward."""

    def forward(i: Tensor, f: Tensor) -> Tensor:
        with _denormals_flushed():
            return masked_cumulative_sum(i, f)

    def backward(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        with _denormals_flushed():
            return gradient(G, i, f)

    return with_gradient(forward, backward)(igate_preact, fgate_preact)


class _Flush(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.masked_fill(x.abs() < torch.finfo(x.dtype).smallest_normal, 0.0)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> Tensor:
        return _flush(G)


def _flush(x: Tensor) -> Tensor:
    return _Flush.apply(x)  # type: ignore


# Other forms of the log gate.


def _with_log_gate(log_gate: Callable[[Tensor], Tensor]) -> Dtilde:
    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return dress(window_sums(log_gate(widen(fgate_preact).squeeze(-1))), igate_preact)

    return dtilde


@sound()
def log1p_of_exp(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = min(f, 0) - log1p(exp(-|f|)); `minimum` halves the tie at 0, and so is right there."""
    return _with_log_gate(lambda f: torch.minimum(f, torch.zeros_like(f)) - torch.log1p(torch.exp(-f.abs())))(
        igate_preact, fgate_preact
    )


@sound()
def log1p_of_sigmoid(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = min(f, 0) + log1p(-sigmoid(-|f|))."""
    return _with_log_gate(
        lambda f: torch.minimum(f, torch.zeros_like(f)) + torch.log1p(-torch.sigmoid(-f.abs()))
    )(igate_preact, fgate_preact)


@sound()
def two_branches(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = -log1p(exp(-f)) or f - log1p(exp(f)), each branch fed only what it can take."""

    def log_gate(f: Tensor) -> Tensor:
        up, down = torch.where(f >= 0, f, 1.0), torch.where(f >= 0, -1.0, f)
        return torch.where(f >= 0, -torch.log1p(torch.exp(-up)), down - torch.log1p(torch.exp(down)))

    return _with_log_gate(log_gate)(igate_preact, fgate_preact)


@sound()
def log_add_exp(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = -logaddexp(0, -f)."""
    return _with_log_gate(lambda f: -torch.logaddexp(torch.zeros_like(f), -f))(igate_preact, fgate_preact)


@sound()
def softplus_of_minus(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = -softplus(-f), its threshold high enough for float64."""
    return _with_log_gate(lambda f: -softplus(-f, threshold=40))(igate_preact, fgate_preact)


@sound(exact_sums=False)
def base_two(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Logs to base 2 throughout, one factor at the end: integers are no longer exact."""

    def log2_gate(f: Tensor) -> Tensor:
        small = torch.log1p(torch.exp2(-f.abs() * LOG2_E))
        return torch.minimum(f, torch.zeros_like(f)) * LOG2_E - small * LOG2_E

    windows = window_sums(log2_gate(widen(fgate_preact).squeeze(-1)))
    dtilde = (windows + widen(igate_preact).mT * LOG2_E) * LN_2
    return dtilde.masked_fill(~causal(dtilde), -torch.inf).to(igate_preact.dtype)


@sound(gates="absolute")
def log_of_one_plus_exp(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """l = -log(1 + exp(-f)), guarded where exp would overflow: absolutely right, not relatively."""
    return _with_log_gate(lambda f: torch.where(f < -40, f, -torch.log(1 + torch.exp(-f.clamp(min=-40)))))(
        igate_preact, fgate_preact
    )


@sound(gates="absolute")
def one_minus_sigmoid(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The gate's derivative as 1 - sigmoid(f): absolutely right, not relatively."""

    def gradient(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - torch.sigmoid(widen(f))
        return input_gradient(G, i), (rectangle_sum(widen(G)).unsqueeze(-1) * slope).to(f.dtype)

    return with_gradient(masked_cumulative_sum, gradient)(igate_preact, fgate_preact)


# Products with the mask: 0 times inf is NaN, so no reset and no NaN gate.


@sound(special_values={"+inf"})
def triangular_product(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A product of the mask and the masked log gates."""
    log_f = log_decays(fgate_preact)
    masked = torch.where(causal(log_f, -1), log_f.unsqueeze(-1), 0.0)
    return dress(causal(log_f).to(log_f.dtype) @ masked, igate_preact)


@sound(special_values={"+inf"})
def triangular_solve(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The row recurrence as a bidiagonal system, solved."""
    log_f = log_decays(fgate_preact)
    masked = torch.where(causal(log_f, -1), log_f.unsqueeze(-1), 0.0)
    eye = torch.eye(log_f.shape[-1], dtype=log_f.dtype, device=log_f.device)
    step = eye - pad(eye, (0, 0, 1, 0))[:-1]
    return dress(torch.linalg.solve_triangular(step, masked, upper=False), igate_preact)


@sound(special_values={"+inf"}, max_seq=96)
def window_einsum(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """All windows as one (S, S, S) tensor of zeros and ones, contracted with the log gates."""
    log_f = log_decays(fgate_preact)
    windows = (causal(log_f).unsqueeze(-2) & causal(log_f, -1).mT).to(log_f.dtype)  # (t, s, k)
    return dress(torch.einsum("tsk,bnk->bnts", windows, log_f), igate_preact)


# Wider scopes: differences of sums, which lose digits.


def from_the_front(x: Tensor) -> Tensor:
    """The sum of the first t minus that of the first s, (B, NH, S) -> (B, NH, S, S)."""
    total = x.cumsum(-1)
    return total.unsqueeze(-1) - total.unsqueeze(-2)


def from_the_back(x: Tensor) -> Tensor:
    """What is left after s minus what is left after t, (B, NH, S) -> (B, NH, S, S)."""
    left = pad(x, (0, 1))[..., 1:].flip(-1).cumsum(-1).flip(-1)
    return left.unsqueeze(-2) - left.unsqueeze(-1)


@sound(error_scope="prefix")
def cumulative_sum_difference(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Cumulative sum at t minus cumulative sum at s."""
    return dress(from_the_front(log_decays(fgate_preact)), igate_preact)


@sound(error_scope="prefix", accumulates_in="float64")
def cumulative_sum_difference_wide(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The same in float64."""
    return dress(from_the_front(log_decays(fgate_preact.double())), igate_preact)


@sound(error_scope="prefix", masked_cotangent="summed", special_values={"-inf"})
def mask_added(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The notebook's: -inf + i in the future, so i = +inf is NaN and masked cotangents pass."""
    total = log_decays(fgate_preact).cumsum(-1)
    masked = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(~causal(total), -torch.inf)
    return (masked + widen(igate_preact).mT).to(igate_preact.dtype)


@sound(error_scope=16)
def chunkwise_difference(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Chunks of 16, with differences of cumulative sums inside a chunk."""
    return dress(chunkwise_sums(log_decays(fgate_preact), 16), igate_preact)


@sound(error_scope="sequence", special_values={"+inf"})
def suffix_sum_difference(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """What is left of the sequence after s minus what is left after t."""
    return dress(from_the_back(log_decays(fgate_preact)), igate_preact)


# Narrower promises: formats, lengths, layouts, order.


def _in_its_own_format(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = window_sums(logsigmoid(fgate_preact.squeeze(-1))) + igate_preact.mT
    return dtilde.masked_fill(~causal(dtilde), -torch.inf)


@sound(accumulates_in={"float64": "float32"})
def float64_by_float32(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Everything in float32, and the contract says so."""
    narrow = masked_cumulative_sum(igate_preact.float(), fgate_preact.float())
    return narrow.to(igate_preact.dtype)


@sound(accumulates_in="bfloat16", dtypes=("bfloat16",))
def all_in_bfloat16(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Every step rounded to bfloat16."""
    return _in_its_own_format(igate_preact, fgate_preact)


@sound(accumulates_in="float16", dtypes=("float16",))
def all_in_float16(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Every step rounded to float16."""
    return _in_its_own_format(igate_preact, fgate_preact)


@sound(seq_multiple_of=16)
def whole_chunks_only(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A kernel that takes whole chunks of 16."""
    if igate_preact.shape[-2] % 16:
        raise ValueError(f"S = {igate_preact.shape[-2]} is no multiple of 16")
    return chunkwise(igate_preact, fgate_preact)


@sound(zero_length=False)
def never_empty(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A kernel that cannot be launched on nothing."""
    if not igate_preact.numel():
        raise ValueError(f"empty input, shape {tuple(igate_preact.shape)}")
    return masked_cumulative_sum(igate_preact, fgate_preact)


@sound(differentiable=False)
def forward_only(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """No gradient at all."""
    with torch.no_grad():
        return masked_cumulative_sum(igate_preact, fgate_preact)


@sound(deterministic=False)
def any_order(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The gates of each window added in an order that changes from call to call."""
    log_f = log_decays(fgate_preact)
    s, t = times(log_f), times(log_f).unsqueeze(-1)
    windows = torch.zeros_like(log_f).unsqueeze(-1)
    for k in torch.randperm(log_f.shape[-1]).tolist():
        windows = windows + torch.where((s < k) & (k <= t), log_f[..., k, None, None], 0.0)
    return dress(windows, igate_preact)


@sound(gate_layout="B NH S")
def gates_without_last_axis(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Gates (B, NH, S)."""
    return masked_cumulative_sum(igate_preact.unsqueeze(-1), fgate_preact.unsqueeze(-1))


@sound(gate_layout="B S NH")
def gates_time_first(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Gates (B, S, NH)."""
    return masked_cumulative_sum(igate_preact.mT.unsqueeze(-1), fgate_preact.mT.unsqueeze(-1))


# One number at a time, in Python.


def _sum(terms: Sequence[float]) -> float:
    """Correctly rounded, with the arithmetic of infinities."""
    if any(math.isnan(x) for x in terms) or {math.inf, -math.inf} <= set(terms):
        return math.nan
    try:
        return math.fsum(terms)
    except OverflowError:
        return sum(terms)


def _log_sigmoid(f: float) -> float:
    return -math.log1p(math.exp(-f)) if f >= 0 else f - math.log1p(math.exp(f))


def _sigmoid_of_minus(f: float) -> float:
    return math.exp(-f) / (1 + math.exp(-f)) if f >= 0 else 1 / (1 + math.exp(f))


def _heads(x: Tensor) -> list[list[float]]:
    """One list of floats for each batch and head."""
    rows: list[list[float]] = x.double().flatten(2).flatten(0, 1).tolist()
    return rows


def _fsum_dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    S, entries = igate_preact.shape[-2], []
    for i, f in zip(_heads(igate_preact), _heads(fgate_preact), strict=True):
        log_f = [_log_sigmoid(x) for x in f]
        entries += [
            _sum([i[s], *log_f[s + 1 : t + 1]]) if s <= t else -math.inf for t in range(S) for s in range(S)
        ]
    wide = torch.tensor(entries, dtype=torch.float64, device=igate_preact.device)
    return wide.reshape(*igate_preact.shape[:-1], S).to(igate_preact.dtype)


def _fsum_gradient(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    S, inputs, forgets = i.shape[-2], [], []
    for g, gates in zip(_heads(G), _heads(f), strict=True):
        inputs += [_sum([g[t * S + s] for t in range(s, S)]) for s in range(S)]
        for k in range(S):
            rectangle = _sum([g[t * S + s] for t in range(k, S) for s in range(k)])
            forgets.append(rectangle * _sigmoid_of_minus(gates[k]))
    di, df = (torch.tensor(x, dtype=torch.float64, device=G.device) for x in (inputs, forgets))
    return di.reshape(i.shape).to(i.dtype), df.reshape(f.shape).to(f.dtype)


@sound(accumulates_in="float64", max_seq=24)
def correctly_rounded_sums(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Every entry and every gradient by math.fsum."""
    return with_gradient(_fsum_dtilde, _fsum_gradient, once=True)(igate_preact, fgate_preact)


# Segment sums of log decays, lifted to D~.


def segment_sum(log_decay: Tensor) -> Tensor:
    return window_sums(widen(log_decay)).masked_fill(~causal(log_decay), -torch.inf)


SOUND.append(from_segment_sum(segment_sum))

"""Kernels with operands of half types, as their contracts say. Right ones sum in float32, mutants do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .channels import promising
from .fused_mutants import mutant
from .fused_sound import by_windows

HALF: dict[str, Any] = {"multiplies_in": "input", "dtypes": ("float16", "bfloat16"), "gate_dtype": "float32"}
ONE: dict[str, Any] = {**HALF, "reads": "linear", "K": (1, 4, 16), "factors": "one"}
SUFFIX: dict[str, Any] = {**ONE, "grad_scope": "suffix"}
ROWS: dict[str, Any] = {**HALF, "reads": "softmax", "scale": "K**-0.5", "K": (16,), "factors": "one"}
LONGEST = 400
Total = Callable[[Tensor, torch.dtype], Tensor]


def half_total(x: Tensor, half: torch.dtype) -> Tensor:
    """Sum over the last axis in a half type, term by term."""
    total = torch.zeros_like(x[..., 0]).to(half)
    for term in x.unbind(-1):
        total = total + term.to(half)
    return total.float()


def wide_total(x: Tensor, half: torch.dtype) -> Tensor:
    """Sum over the last axis in float32."""
    return x.float().sum(-1)


def softmax_rows(total: Total) -> Callable[..., Tensor]:
    """Make a forgetting attention whose weights are rounded to the half type. total: of a row."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        s = q.float() @ k.float().mT * q.shape[-1] ** -0.5 + by_windows(g)
        p = (s - s.amax(-1, keepdim=True)).exp()  # the maximum is differentiated too
        o: Tensor = p.to(v.dtype).float() @ v.float() / total(p, v.dtype)[..., None]
        return o.to(v.dtype)

    return kernel


def reverse_sums(x: Tensor, half: torch.dtype | None) -> Tensor:
    """Return reverse cumulative sums over the last axis, in a half type or in float32."""
    if half is None:
        return x.flip(-1).cumsum(-1).flip(-1)
    total, sums = torch.zeros_like(x[..., 0]).to(half), []
    for term in x.flip(-1).unbind(-1):
        total = total + term.to(half)
        sums.append(total.float())
    return torch.stack(sums, -1).flip(-1)


def linear(total: Total, *, half_sums: bool = False, half_products: bool = False) -> Callable[..., Tensor]:
    """Make a linear attention with a backward of its own: dl is the reverse sum of q.dq - k.dk.

    total: how W.v is summed. half_products: whether q.dq and k.dk are multiplied and summed in the half type.
    """

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            ctx.save_for_backward(q, k, v, g)
            weights = by_windows(g).exp() * (q.float() @ k.float().mT)
            return (weights.to(v.dtype).float() @ v.float()).to(v.dtype)

        @staticmethod
        def backward(ctx: Any, W: Tensor) -> tuple[Tensor, ...]:
            q, k, v, g = ctx.saved_tensors
            half, E = v.dtype, by_windows(g).exp()
            of_a = total(W[..., :, None, :] * v[..., None, :, :], half) * E
            dv = (E * (q.float() @ k.float().mT)).mT @ W.float()
            dq, dk = of_a @ k.float(), of_a.mT @ q.float()
            if half_products:
                each = half_total(q * dq.to(half) - k * dk.to(half), half)
            else:
                each = (q.float() * dq - k.float() * dk).sum(-1)
            dl = reverse_sums(each, half if half_sums else None)
            return dq.to(half), dk.to(half), dv.to(half), dl.to(g.dtype)

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        found: Tensor = Attention.apply(q, k, v, g)  # type: ignore[no-untyped-call]
        return found

    return kernel


def named(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Give a kernel its name."""
    kernel.__name__ = kernel.__qualname__ = name
    return kernel


softmax_in_halves = promising(**ROWS)(named("softmax_in_halves", softmax_rows(wide_total)))
linear_in_halves = promising(**SUFFIX)(named("linear_in_halves", linear(wide_total)))


@promising(**{**HALF, "reads": "linear", "K": (16,)}, states="state", error_scope=16, factors=16)
def chunks_in_halves(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Chunks of 16: the products' operands and the state that is multiplied are halves, its sum is not."""
    half, S = v.dtype, q.shape[2]
    h = v.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float32) if state is None else state
    rows = []
    for n in range(0, S, 16):
        Q, Key, U, c = (x[:, :, n : n + 16] for x in (q.float(), k.float(), v.float(), g.float()))
        c = c.cumsum(-1)
        causal = torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool).tril()
        E = (c[..., None] - c[..., None, :]).masked_fill(~causal, -torch.inf).exp()
        inner = (E * (Q @ Key.mT)).to(half).float() @ U
        rows.append(inner + c.exp()[..., None] * (Q @ h.to(half).float()))
        decayed = (Key * (c[..., -1:] - c).exp()[..., None]).to(half).float()
        h = c[..., -1].exp()[..., None, None] * h + decayed.mT @ U
    return torch.cat(rows, 2).to(half), h


class Spread(torch.autograd.Function):
    """A parameter of each head for all batches and times. total: how its gradient is summed over them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, B: int, S: int, total: Total, half: torch.dtype) -> Tensor:
        ctx.total, ctx.half = total, half
        return x[None, :, None].expand(B, -1, S).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.total(grad.transpose(0, 1).flatten(1), ctx.half), None, None, None, None


def steps(total: Total) -> Callable[..., Tensor]:
    """Make a linear attention with gates -exp(A_log) softplus(dt + dt_bias). total: of dA_log, ddt_bias."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
        B, _, S = dt.shape
        A_log, dt_bias = (Spread.apply(x, B, S, total, v.dtype) for x in (A_log, dt_bias))  # type: ignore[no-untyped-call]
        g = -A_log.exp() * softplus(dt + dt_bias)
        weights = by_windows(g).exp() * (q.float() @ k.float().mT)
        return (weights.to(v.dtype).float() @ v.float()).to(v.dtype)

    return kernel


steps_in_halves = promising(**ONE, gate="dt")(named("steps_in_halves", steps(wide_total)))

HALVES_SOUND = [softmax_in_halves, linear_in_halves, chunks_in_halves, steps_in_halves]

SUMMED = "equal_terms"
mutant(SUMMED, "a softmax sums its rows in the half type", LONGEST, **ROWS)(
    named("half_row_sums", softmax_rows(half_total))
)
mutant(SUMMED, "dl is summed in the half type", LONGEST, **SUFFIX)(
    named("half_reverse_sums", linear(wide_total, half_sums=True))
)
mutant(SUMMED, "q.dq and k.dk are multiplied and summed in the half type", LONGEST, **SUFFIX)(
    named("half_products_back", linear(wide_total, half_sums=True, half_products=True))
)
mutant(SUMMED, "W.v is summed in the half type", LONGEST, **SUFFIX)(named("half_wv", linear(half_total)))
mutant(SUMMED, "dA_log and ddt_bias are summed in the half type", LONGEST, **ONE, gate="dt")(
    named("half_parameter_sums", steps(half_total))
)


@mutant(SUMMED, "the output is summed over times in the half type", LONGEST, **ONE)
def half_output(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    weights = by_windows(g).exp() * (q.float() @ k.float().mT)
    return half_total((weights[..., None] * v.float()[:, :, None]).transpose(-1, -2), v.dtype).to(v.dtype)


@mutant(SUMMED, "q.k is summed in the half type", LONGEST, **{**ONE, "K": (64,)})
def half_qk(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    products = half_total(q[..., :, None, :] * k[..., None, :, :], v.dtype)
    return ((by_windows(g).exp() * products) @ v.float()).to(v.dtype)


@mutant(
    SUMMED, "the state is summed in the half type", LONGEST, **{**ONE, "factors": "steps"}, states="state"
)
def half_running_state(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    h = v.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    rows = []
    for t in range(q.shape[2]):
        h = h * g[:, :, t, None, None].exp().to(h.dtype) + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, None].float() @ h.float())[..., 0, :].to(h.dtype))
    return torch.stack(rows, 2), h

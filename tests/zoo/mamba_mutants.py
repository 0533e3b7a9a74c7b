"""Mutants of Mamba-2 with all of its arguments, and of sums over n. Each is right but for one part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from .channels import _wide
from .fused_mutants import mutant
from .fused_sound import by_windows
from .mamba import MAMBA, NORMALISED, normalised_chunked

ALL: dict[str, Any] = {**MAMBA, "factors": "one"}
LOW, HIGH = 0.05, 2.0
Step = Callable[[Tensor, Tensor], Tensor]


def step(dt: Tensor, bias: Tensor) -> Tensor:
    """Return d, clamped."""
    return softplus(dt + bias).clamp(LOW, HIGH)


def sums(q: Tensor, k: Tensor, v: Tensor, l: Tensor, w: Tensor) -> Tensor:  # noqa: E741
    """Return the sum of w E q.k v."""
    return (by_windows(l).exp() * (q @ k.mT) * w[..., None, :]) @ v


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, None, None]:
        return W, None, None


class _OneTerm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return silu(z)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> Tensor:
        found: Tensor = W * ctx.saved_tensors[0].sigmoid()
        return found


class _FirstBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, B: int) -> Tensor:
        return x.expand(B, *x.shape).clone()

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, None]:
        return W[0], None


def passed(x: Tensor, low: float = LOW, high: float = HIGH) -> Tensor:
    """Clamp x, with the derivative 1 everywhere."""
    found: Tensor = _Passed.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


def one_term(z: Tensor) -> Tensor:
    found: Tensor = _OneTerm.apply(z)  # type: ignore[no-untyped-call]
    return found


def of_first_batch(x: Tensor, B: int) -> Tensor:
    found: Tensor = _FirstBatch.apply(x, B)  # type: ignore[no-untyped-call]
    return found[..., None]


def late_softplus(dt: Tensor, bias: Tensor) -> Tensor:
    y = dt + bias
    return torch.where(y > 2, y, softplus(y.clamp(max=2))).clamp(LOW, HIGH + 1)


def mamba(
    steps: Step = step, weigh: Step = step, skip: Callable[..., Tensor] | None = None,
    size: Callable[[Tensor, int], Tensor] = lambda A, B: A[:, None],
    gate: Callable[[Tensor], Tensor] = silu, after: bool = True,
) -> Callable[..., Tensor]:  # fmt: skip
    """Make a Mamba-2. steps, weigh: the step of the decay and of the weight. skip: what it adds."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A: Tensor, dt_bias: Tensor, D: Tensor, z: Tensor
    ) -> Tensor:
        out = v.dtype
        q, k, v, dt, z = _wide(q, k, v, dt, z)
        l, w = size(A, len(q)) * steps(dt, dt_bias[:, None]), weigh(dt, dt_bias[:, None])  # noqa: E741
        more = D[:, None, None] * v if skip is None else skip(D, v, w)
        o = sums(q, k, v, l, w)
        return ((o + more) * gate(z) if after else o * gate(z) + more).to(out)

    return kernel


def made(law: str, museum: str, S: int, name: str, promises: dict[str, Any] = ALL, **parts: Any) -> None:
    """Add the mutant of this name, with these parts of a Mamba-2."""
    kernel = mamba(**parts)
    kernel.__name__ = kernel.__qualname__ = name
    mutant(law, museum, S, **promises)(kernel)


def both(how: Step) -> dict[str, Any]:
    """Return a step for the decay and the weight."""
    return {"steps": how, "weigh": how}


made("values", "dt_bias is added twice", 2, "mamba_bias_twice",
     **both(lambda dt, bias: step(dt + bias, bias)))  # fmt: skip
made("values", "softplus is the identity from 2 on", 2, "mamba_threshold", {**ALL, "dt_limit": (0.05, 3.0)},
     **both(late_softplus))  # fmt: skip
made("values", "log(1 + exp(y)) without a threshold", 2, "mamba_overflow", {**ALL, "dt_limit": None},
     **both(lambda dt, bias: (1 + (dt + bias).exp()).log()))  # fmt: skip
made("values", "dt is clamped before the bias", 2, "mamba_clamped_first",
     **both(lambda dt, bias: softplus(dt.clamp(LOW, HIGH) + bias)))  # fmt: skip
made("values", "dt has no upper end", 2, "mamba_lower_end_alone",
     **both(lambda dt, bias: softplus(dt + bias).clamp(min=LOW)))  # fmt: skip
made("values", "the weight is not clamped", 1, "mamba_free_weight",
     weigh=lambda dt, bias: softplus(dt + bias))  # fmt: skip
made("values", "the weight is dt without softplus", 1, "mamba_raw_weight",
     weigh=lambda dt, bias: (dt + bias).clamp(LOW, HIGH))  # fmt: skip
made("forget_gradient", "the gradient of dt passes the clamp", 2, "mamba_unmasked",
     **both(lambda dt, bias: passed(softplus(dt + bias))))  # fmt: skip
made("forget_gradient", "the gradient of dt does not come through the weight", 1, "mamba_constant_weight",
     weigh=lambda dt, bias: step(dt, bias).detach())  # fmt: skip
made("parameter_gradients", "the gradient of dt_bias lacks that of the weight", 1, "mamba_bias_of_decay",
     weigh=lambda dt, bias: step(dt, bias.detach()))  # fmt: skip
made("parameter_gradients", "the gradient of A is that of the first batch alone", 4, "mamba_one_batch",
     size=of_first_batch)  # fmt: skip
made("values", "A is that of the next head", 4, "mamba_other_A", size=lambda A, B: A.roll(1)[:, None])
made("values", "A_log is taken for A", 2, "mamba_log_for_A", size=lambda A, B: -A.exp()[:, None])
made("values", "D is that of the next head", 3, "mamba_other_D",
     skip=lambda D, v, w: D.roll(1)[:, None, None] * v)  # fmt: skip
made("values", "D v is weighted by dt", 1, "mamba_weighted_skip",
     skip=lambda D, v, w: D[:, None, None] * v * w[..., None])  # fmt: skip
made("parameter_gradients", "D has no gradient", 1, "mamba_constant_D",
     skip=lambda D, v, w: D.detach()[:, None, None] * v)  # fmt: skip
made("product_gradients", "the gradient of v does not come through D v", 1, "mamba_constant_skip",
     skip=lambda D, v, w: D[:, None, None] * v.detach())  # fmt: skip
made("parameter_gradients", "the gradient of D is that of the first batch alone", 3, "mamba_one_batch_of_D",
     skip=lambda D, v, w: of_first_batch(D, len(v))[..., None] * v)  # fmt: skip
made("product_gradients", "the gradient of silu(z) is sigmoid(z)", 1, "mamba_one_term", gate=one_term)
made("values", "the gate is sigmoid(z)", 1, "mamba_sigmoid", gate=torch.sigmoid)
made("values", "the skip is added behind the gate", 1, "mamba_late_skip", after=False)
made("finite", "silu(z) is z e^z / (1 + e^z): NaN for a large z", 2, "mamba_large_z",
     gate=lambda z: z * z.exp() / (1 + z.exp()))  # fmt: skip


# Sums over n


def over_n(bottom: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Make the sum of a v over this function of (a, q.k)."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        out = v.dtype
        q, k, v, g = _wide(q, k, v, g)
        a = by_windows(g).exp() * (q @ k.mT)
        return ((a @ v) / bottom(a, (q @ k.mT).tril())).to(out)

    return kernel


def named(law: str, museum: str, S: int, name: str, bottom: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Add the mutant of this name, with this denominator."""
    kernel = over_n(bottom)
    kernel.__name__ = kernel.__qualname__ = name
    mutant(law, museum, S, **NORMALISED, factors="one")(kernel)


def total(a: Tensor) -> Tensor:
    return a.sum(-1, keepdim=True)


named("values", "the denominator does not decay", 2, "over_undecayed", lambda a, p: total(p) + 1e-6)
named("values", "the denominator is at least 1", 1, "over_at_least_one", lambda a, p: total(a).clamp(min=1))
named("values", "eps is left out", 1, "over_no_eps", lambda a, p: total(a))
named("values", "eps is added to each term", 3, "over_eps_each", lambda a, p: total(a + 1e-6))
named(
    "forget_gradient",
    "the denominator is held constant",
    2,
    "over_constant",
    lambda a, p: total(a).detach() + 1e-6,
)

CHUNKED: dict[str, Any] = {**NORMALISED, "eps": 0.0, "error_scope": 4, "factors": 4, "grad_scope": "suffix"}


@mutant("handover", "the denominator forgets the state", 3, **CHUNKED, states="state")
def over_without_state(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    forgotten = None if state is None else (state[0], state[1] * 0)
    found: tuple[Tensor, tuple[Tensor, Tensor]] = normalised_chunked(q, k, v, g, forgotten)
    return found


@mutant("handover", "the denominator's state is stored in bfloat16", 3, **CHUNKED, states="state")
def over_coarse_state(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    o, (h, n) = normalised_chunked(q, k, v, g, state)
    return o, (h, n.bfloat16().float())

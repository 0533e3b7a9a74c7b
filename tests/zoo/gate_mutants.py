"""Mutants that make their gates wrongly. Each is right but for one part, and names its law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .channels import _wide
from .fused_mutants import mutant
from .fused_sound import by_windows
from .gate_kernels import GDN, STEP, decays, decays_by_logs, gdn_steps

ONE: dict[str, Any] = {**STEP, "factors": "one"}
DECAY: dict[str, Any] = {"reads": "linear", "gate": "decay", "K": (1, 4)}


def summed(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A linear attention of log gates."""
    out = v.dtype
    q, k, v = _wide(q, k, v)
    return (by_windows(g).exp() * (q @ k.mT) @ v).to(out)


@mutant("values", "dt_bias is added twice", 2, **ONE)
def step_bias_twice(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return summed(q, k, v, -A_log.exp()[:, None] * softplus(dt.float() + 2 * dt_bias[:, None]))


@mutant("values", "dt_bias is not added", 2, **ONE)
def step_no_bias(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return summed(q, k, v, -A_log.exp()[:, None] * softplus(dt.float() + 0 * dt_bias[:, None]))


@mutant("values", "A_log is taken for A", 2, **ONE)
def step_log_for_A(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return summed(q, k, v, -(1 + A_log[:, None]) * softplus(dt.float() + dt_bias[:, None]))


@mutant("values", "A_log is that of the next head", 2, **ONE)
def step_other_head(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return summed(q, k, v, -A_log.roll(-1).exp()[:, None] * softplus(dt.float() + dt_bias[:, None]))


@mutant("values", "no softplus: a step below 0 grows the state", 2, **ONE)
def step_relu(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    return summed(q, k, v, -A_log.exp()[:, None] * (dt.float() + dt_bias[:, None]).relu())


class _LastBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, B: int) -> Tensor:
        return x.expand(B, *x.shape).clone()

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, None]:
        return W[-1], None


@mutant("parameter_gradients", "the gradient of A_log is that of the last batch alone", 4, **ONE)
def step_one_batch(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    A: Tensor = _LastBatch.apply(A_log, q.shape[0])  # type: ignore[no-untyped-call]
    return summed(q, k, v, -A.exp()[..., None] * softplus(dt.float() + dt_bias[:, None]))


@mutant("parameter_gradients", "the gradient of dt_bias leaves the derivative of softplus out", 2, **ONE)
def step_no_slope(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    y = softplus(dt.float() + dt_bias.detach()[:, None])
    y = y + dt_bias[:, None] - dt_bias.detach()[:, None]
    return summed(q, k, v, -A_log.exp()[:, None] * y)


@mutant(
    "values", "log2(alpha + 1e-10) for log2(alpha)", 2, reads="linear", gate="decay", K=(1, 4), factors="one"
)
def decay_shifted(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
    found: Tensor = decays_by_logs(q, k, v, alpha.float() + 1e-10)
    return found.to(v.dtype)


@mutant(
    "values", "a decay is taken for a log gate", 2, reads="linear", gate="decay", K=(1, 4), states="state"
)
def decay_for_log(
    q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = decays(q, k, v, (-alpha.float()).exp(), state)
    return found


@mutant("values", "beta is the sigmoid of twice the logit", 2, **GDN, l2norm=1e-6)
def logit_twice(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    found: tuple[Tensor, Tensor] = gdn_steps(q, k, v, dt, b.float() * 2, A_log, dt_bias, state)
    return found


@mutant("parameter_gradients", "the gradient of A_log is cut off", 2, **GDN, l2norm=1e-6)
def gdn_constant_A(
    q: Tensor, k: Tensor, v: Tensor, dt: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    found: tuple[Tensor, Tensor] = gdn_steps(q, k, v, dt, b, A_log.detach(), dt_bias, state)
    return found

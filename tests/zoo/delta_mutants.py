"""Mutants of delta rules: chunks that are right but for one part, each with the law that must reject it.

Each restates a bug by the part of the mathematics that it gets wrong (docs/fused.md section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .delta_rules import Chunks, Rows, by_powers, by_rows, eye, l2norm, merged_by_rows
from .delta_sound import STATE, as_kernel, chunks_of
from .fused_mutants import mutant

ROOT = 0.25  # a scale: a power of two for every K


def wrong(law: str, museum: str, smallest: int = 4, **contract: Any) -> Callable[[type], type]:
    """Register a class of Chunks as a mutant under the contract of its right parent."""

    def register(style: type[Chunks]) -> type[Chunks]:
        fields = {**STATE, **chunks_of(style.size), **contract}
        mutant(law, museum, smallest, **fields)(as_kernel(style))
        return style

    return register


def through(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return x, whose gradient is multiplied by the factor."""
    return x * factor + (x - x * factor).detach()


# The inverse


@wrong("exact", "no inverse at all: T = I")
class delta_no_inverse(Chunks):
    def inverse(self, A: Tensor) -> Tensor:
        return eye(A)


@wrong("exact", "the inverse to first order: T = I - A")
class delta_first_order(Chunks):
    def inverse(self, A: Tensor) -> Tensor:
        return eye(A) - A


@wrong("exact", "the inverse of I - A")
class delta_wrong_sign(Chunks):
    def inverse(self, A: Tensor) -> Tensor:
        return by_rows(-A)


@wrong("exact", "Neumann, one doubling short", doubling=4)
class delta_one_doubling_short(Chunks):
    def inverse(self, A: Tensor) -> Tensor:
        return by_powers(A, doublings=0)


@wrong("exact", "substitution that misses the row just above")
class delta_row_misses_last(Chunks):
    def inverse(self, A: Tensor) -> Tensor:
        rows = [eye(A)[..., :1, :]]
        for i in range(1, A.shape[-1]):
            most = max(i - 1, 1)
            rows.append(eye(A)[..., i : i + 1, :] - A[..., i : i + 1, :most] @ torch.cat(rows[:most], -2))
        return torch.cat(rows, -2)


@wrong("exact", "blocks merged without the blocks between", 8)
class delta_merge_misses_middle(Chunks):
    size = 8

    def inverse(self, A: Tensor) -> Tensor:
        block = torch.arange(A.shape[-1]) // 2
        same = block[:, None] == block[None, :]
        T = by_rows(A * same)
        return T - T @ (A * ~same) @ T


@wrong("exact", "blocks two apart merged with the wrong sign", 5)
class delta_merge_sign(Chunks):
    size = 8

    def inverse(self, A: Tensor) -> Tensor:
        block = torch.arange(A.shape[-1]) // 2
        far = (block[:, None] - block[None, :]) >= 2
        T = merged_by_rows(A, 2, by_rows)
        return torch.where(far, -T, T)


# A


@wrong("exact", "A without its decay")
class delta_no_decay_in_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return (x.beta * (x.k @ x.k.mT)).tril(-1)


@wrong("exact", "A with beta by column")
class delta_beta_by_column(Chunks):
    def A(self, x: Rows) -> Tensor:
        return (x.beta.mT * (x.k @ x.k.mT) * x.E).tril(-1)


@wrong("exact", "A without beta")
class delta_no_beta_in_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return ((x.k @ x.k.mT) * x.E).tril(-1)


@wrong("exact", "A with its diagonal")
class delta_tril_not_strict(Chunks):
    def A(self, x: Rows) -> Tensor:
        return (x.beta * (x.k @ x.k.mT) * x.E).tril()

    def inverse(self, A: Tensor) -> Tensor:
        T: Tensor = torch.linalg.solve_triangular(eye(A) + A, eye(A), upper=False)
        return T


# U and W


@wrong("exact", "U without the state", 5)
class delta_state_unread_in_U(Chunks):
    def S_in_U(self, S: Tensor) -> Tensor:
        return torch.zeros_like(S)


@wrong("exact", "W without its decay", 5)
class delta_no_decay_in_W(Chunks):
    def rk(self, x: Rows) -> Tensor:
        return x.beta * x.k


@wrong("exact", "W without beta", 5)
class delta_no_beta_in_W(Chunks):
    def rk(self, x: Rows) -> Tensor:
        return x.k * x.eG


@wrong("exact", "k is not normalised in W", 5, l2norm=1e-6)
class delta_k_unnormalised_in_W(Chunks):
    normalised = True

    def keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        self.raw, self.at = k, 0
        return l2norm(q), l2norm(k)

    def rk(self, x: Rows) -> Tensor:
        k = self.raw[:, :, self.at : self.at + x.n]
        self.at += x.n
        return x.beta * k * x.eG


@wrong("exact", "U with the square of beta", beta_max=2.0)
class delta_beta_squared_in_U(Chunks):
    def rv(self, x: Rows) -> Tensor:
        return x.beta * x.beta * x.v


@wrong("exact", "beta of the next token")
class delta_beta_of_next(Chunks):
    def over_chunks(self, q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, *rest: Any) -> Any:
        return super().over_chunks(q, k, v, log, torch.cat([beta[:, :, 1:], beta[:, :, -1:]], 2), *rest)


# Gates


@wrong("exact", "sums of gates without the row's own")
class delta_gate_exclusive(Chunks):
    def sums(self, log: Tensor) -> Tensor:
        return log.cumsum(-2) - log


@wrong("exact", "gates of the next row")
class delta_gate_of_next(Chunks):
    def sums(self, log: Tensor) -> Tensor:
        return pad(log[..., 1:, :], (0, 0, 0, 1)).cumsum(-2)


@wrong("exact", "the state is read without decay", 5)
class delta_no_decay_in_inter(Chunks):
    def of_state(self, x: Rows, S: Tensor) -> Tensor:
        return x.q @ S


@wrong("exact", "the first row of a chunk never decays", 2)
class delta_first_row_undecayed(Chunks):
    def sums(self, log: Tensor) -> Tensor:
        return log.cumsum(-2) - log[..., :1, :]


@wrong(
    "exact",
    "the last row of chunks of 64 never decays, chunks unstated",
    65,
    error_scope="prefix",
    factors="one",
)
class delta_last_of_64_undecayed(Chunks):
    size = 64

    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return super().kept(replace(x, G=x.G[..., :63, :]), S, number)

    def kd(self, x: Rows) -> Tensor:
        last = x.G[..., :63, :][..., -1:, :]
        return x.k * (last - x.G).clamp(max=0.0).exp()


# Rows of the chunk


@wrong("exact", "attention without its diagonal")
class delta_attention_strict(Chunks):
    def P(self, x: Rows) -> Tensor:
        return ((x.q @ x.k.mT) * x.E).tril(-1)


@wrong("exact", "attention without decay")
class delta_attention_no_decay(Chunks):
    def P(self, x: Rows) -> Tensor:
        return (x.q @ x.k.mT).tril()


@wrong("exact", "attention reads beta v in place of U")
class delta_attention_reads_v(Chunks):
    def of_rows(self, x: Rows, U: Tensor) -> Tensor:
        return self.P(x) @ (x.beta * x.v)


# The state at the end of a chunk


@wrong("exact", "keys of the state without the decay to the end", 5)
class delta_no_decay_to_end(Chunks):
    def kd(self, x: Rows) -> Tensor:
        return x.k


@wrong("exact", "keys of the state with the decay from the start", 5)
class delta_decay_to_start(Chunks):
    def kd(self, x: Rows) -> Tensor:
        return x.k * (x.G - x.G[..., :1, :]).exp()


@wrong("exact", "the last row of a chunk never gets into the state", 5)
class delta_last_row_left_out(Chunks):
    def kd(self, x: Rows) -> Tensor:
        kd = super().kd(x)
        return torch.cat([kd[..., :-1, :], torch.zeros_like(kd[..., -1:, :])], -2) if x.n > 1 else kd


@wrong("exact", "the state is not decayed over a chunk", 9)
class delta_state_not_decayed(Chunks):
    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return S


@wrong("exact", "the state is decayed by the first row alone", 9)
class delta_decay_of_first(Chunks):
    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return x.eG[..., :1, :] * S


@wrong("exact", "the state before the last chunk is returned")
class delta_final_is_before_last(Chunks):
    def chunk(self, x: Rows, S: Tensor, scale: float, number: int) -> tuple[Tensor, Tensor]:
        self.before = S
        return super().chunk(x, S, scale, number)

    def over_chunks(self, *inputs: Any) -> Any:
        o, _ = super().over_chunks(*inputs)
        return o, self.before


@wrong("exact", "columns of v past 128 are never read", 1)
class delta_columns_past_tile(Chunks):
    def over_chunks(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
        return super().over_chunks(q, k, torch.cat([v[..., :128], 0 * v[..., 128:]], -1), *rest)


@wrong("dense", "the norm of a key is at least 1", 1, l2norm=1e-6)
class delta_norm_floored(Chunks):
    def keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return l2norm(q), k * torch.rsqrt(((k * k).sum(-1, keepdim=True) + 1e-6).clamp(min=1.0))


# The state at the start


@wrong("exact", "the initial state is not read")
class delta_initial_state_unread(Chunks):
    def over_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, S: Tensor, scale: float
    ) -> Any:
        return super().over_chunks(q, k, v, log, beta, torch.zeros_like(S), scale)


@wrong("exact", "the initial state is read transposed", V_equals_K=True)
class delta_state_transposed(Chunks):
    def over_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, S: Tensor, scale: float
    ) -> Any:
        return super().over_chunks(q, k, v, log, beta, S.mT, scale)


@wrong("exact", "the scale is applied twice", scale=ROOT)
class delta_scale_twice(Chunks):
    scale = ROOT

    def scaled(self, o: Tensor, scale: float) -> Tensor:
        return scale * scale * o


# Gradients: beta


@wrong("gradient_exact", "dbeta without the part of A")
class delta_dbeta_misses_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return super().A(replace(x, beta=x.beta.detach()))


# Gradients: k


@wrong("gradient_exact", "dk without the part of A")
class delta_dk_misses_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return super().A(replace(x, k=x.k.detach()))


@wrong("gradient_exact", "dk from the rows of A alone")
class delta_dk_one_side_of_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return (x.beta * (x.k @ x.k.detach().mT) * x.E).tril(-1)


@wrong("gradient_exact", "dk without the part of W", 5)
class delta_dk_misses_W(Chunks):
    def rk(self, x: Rows) -> Tensor:
        return super().rk(replace(x, k=x.k.detach()))


@wrong("gradient_exact", "dk without the part of attention")
class delta_dk_misses_attention(Chunks):
    def P(self, x: Rows) -> Tensor:
        return super().P(replace(x, k=x.k.detach()))


@wrong("gradient_exact", "dk without the derivative of the norm", l2norm=1e-6)
class delta_dk_without_norm(Chunks):
    def keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return l2norm(q), k * torch.rsqrt((k.detach() ** 2).sum(-1, keepdim=True) + 1e-6)


# Gradients: gates


@wrong("gradient_exact", "dg without the part of A")
class delta_dg_misses_A(Chunks):
    def A(self, x: Rows) -> Tensor:
        return super().A(replace(x, G=x.G.detach()))


@wrong("gradient_exact", "dg without the part of attention")
class delta_dg_misses_attention(Chunks):
    def P(self, x: Rows) -> Tensor:
        return super().P(replace(x, G=x.G.detach()))


@wrong("gradient_exact", "dg without the decay of the state", 5)
class delta_dg_misses_state(Chunks):
    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return super().kept(replace(x, G=x.G.detach()), S, number)


# Gradients: the state


@wrong("gradient_exact", "the gradient of the state without W: passed on with I for I - k'W", 5)
class delta_dstate_misses_W(Chunks):
    def S_in_U(self, S: Tensor) -> Tensor:
        return S.detach()


@wrong("gradient_exact", "the gradient of the state without its decay", 9)
class delta_dstate_misses_decay(Chunks):
    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return super().kept(x, S.detach(), number)


@wrong("state_gradient", "the gradient of the initial state is cut off")
class delta_dS0_cut(Chunks):
    def over_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, S: Tensor, scale: float
    ) -> Any:
        return super().over_chunks(q, k, v, log, beta, S.detach(), scale)


@wrong("state_gradient", "the gradient of the initial state without the first chunk's decay")
class delta_dS0_misses_decay(Chunks):
    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        kept = super().kept(x, S, number)
        return super().kept(x, S.detach(), number) + (S - S.detach()) if number == 0 else kept


# Gradients: q, v


@wrong("product_gradients", "dq without the scale", scale=ROOT)
class delta_dq_without_scale(Chunks):
    scale = ROOT

    def keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return through(q, 1 / ROOT), k


@wrong("product_gradients", "dv without beta")
class delta_dv_without_beta(Chunks):
    def rv(self, x: Rows) -> Tensor:
        return x.beta * x.v.detach() + (x.v - x.v.detach())


# Gradients of beta, seen by their own law


@wrong("beta_gradient", "dbeta doubled")
class delta_dbeta_doubled(Chunks):
    def rv(self, x: Rows) -> Tensor:
        return through(x.beta, 2.0) * x.v

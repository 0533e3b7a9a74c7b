"""Right delta rules in the styles that kernels have, each with the contract that it keeps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.testing import fused

from .delta_rules import (
    Chunks,
    Rows,
    by_powers,
    by_rows,
    in_steps,
    l2norm,
    merged_by_halves,
    merged_by_rows,
    product,
    written,
)
from .fused_sound import ALL, Kernel, widen

DELTA_SOUND: list[Kernel] = []
STATE = {"reads": "delta", "states": "state"}


def delta(**contract: Any) -> Callable[[Any], Any]:
    """Register a function, or a class of Chunks as a kernel of its name, under its contract."""

    def register(style: Any) -> Any:
        kernel = as_kernel(style)
        DELTA_SOUND.append(fused(kernel, **{**STATE, **contract}))
        return style

    return register


def as_kernel(style: Any) -> Kernel:
    """Return a style as a kernel: a function as it is, a class of Chunks as a function that calls it."""
    if not isinstance(style, type):
        found: Kernel = style
        return found

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        o: tuple[Tensor, Tensor] = style()(q, k, v, log, beta, state)
        return o

    kernel.__name__ = kernel.__qualname__ = style.__name__
    kernel.__doc__ = style.__doc__
    return kernel


def chunks_of(size: int) -> dict[str, Any]:
    """Return the fields of a contract of chunks of this size."""
    return {"error_scope": size, "factors": size}


# Steps


@delta(special_values=("-inf", "nan"))
def delta_steps(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step."""
    return in_steps(q, k, v, log, beta, state)


@delta(layout="BSHD", gate="preact", state_layout="BHVK", beta_max=2.0)
def delta_steps_time_first(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step in layout (B, S, NH, K), with pre-activations and a state (B, NH, V, K)."""
    q, k, v, f, beta = (x.transpose(1, 2) for x in (q, k, v, f, beta))
    o, last = in_steps(q, k, v, logsigmoid(widen(f)[0]), beta, None if state is None else state.mT)
    return o.transpose(1, 2), last.mT


@delta(dtypes=ALL, gate="fixed", fixed=lambda NH: torch.zeros(NH), scale="K**-0.5", beta_max=2.0)
def delta_net(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """DeltaNet: no gate at all."""
    return in_steps(q, k, v, torch.zeros_like(beta), beta, state, q.shape[-1] ** -0.5)


@delta(l2norm=1e-6, scale="K**-0.5", gate_dtype="float32", exact_sums=True)
def delta_steps_l2norm(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step; k and q are divided by their norms."""
    q_, k_ = l2norm(widen(q)[0]), l2norm(widen(k)[0])
    o, last = in_steps(q_, k_, v.to(q_.dtype), log, beta, state, q.shape[-1] ** -0.5)
    return o.to(v.dtype), last


@delta(states=None)
def delta_steps_without_state(q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor) -> Tensor:
    """Step by step; no state goes in or out."""
    return in_steps(q, k, v, log, beta)[0]


@delta(states=None, packed="cu_seqlens")
def delta_packed(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Step by step, one packed sequence after another."""
    ends = [0, q.shape[2]] if cu_seqlens is None else cu_seqlens.tolist()
    spans = [slice(start, end) for start, end in pairwise(ends) if start < end]
    parts = [[x[:, :, span] for x in (q, k, v, log, beta)] for span in spans]
    return torch.cat([in_steps(q, k, v, log, beta)[0] for q, k, v, log, beta in parts], 2)


@delta(gradient="none")
def delta_decoding(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Any = None
) -> tuple[Tensor, Any]:
    """Step by step without gradients; the state is opaque, a list."""
    with torch.no_grad():
        o, last = in_steps(q, k, v, log, beta, None if state is None else state[0])
    return o, [last, q.shape[2]]


@delta(dtypes=("bfloat16",))
def delta_steps_narrow_state(
    q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step by step; a state is handed over in bfloat16."""
    o, last = in_steps(q, k, v, log, beta, state)
    return o, last.to(q.dtype)


# Chunks: substitution


@delta(**chunks_of(4))
class delta_chunks(Chunks):
    """Chunks of 4: rows of T one by one, W and U apart."""


@delta(**chunks_of(8), beta_max=2.0)
class delta_chunks_together(Chunks):
    """Chunks of 8: T times what is left of the values."""

    size = 8

    def U(self, x: Rows, S: Tensor) -> Tensor:
        return product(self.inverse(self.A(x)), self.rv(x) - product(self.rk(x), S, x.form), x.form)


@delta(**chunks_of(16), causal="bound")
class delta_chunks_solved(Chunks):
    """Chunks of 16: triangular solves, T is never formed."""

    size = 16

    def U(self, x: Rows, S: Tensor) -> Tensor:
        A = self.A(x)
        W, U = (
            torch.linalg.solve_triangular(A, y, upper=False, unitriangular=True)
            for y in (self.rk(x), self.rv(x))
        )
        found: Tensor = U - W @ S
        return found


@delta(**chunks_of(16), beta_max=2.0, scale="K**-0.5")
class delta_merged_by_rows(Chunks):
    """Chunks of 16: diagonal blocks of 4, merged by block rows."""

    size = 16
    scale = None

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_rows(A, 4, by_rows)


@delta(**chunks_of(32))
class delta_merged_by_halves(Chunks):
    """Chunks of 32: diagonal blocks of 8, merged by halves."""

    size = 32

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_halves(A, 8, by_rows)


@delta(**chunks_of(8))
class delta_base_two(Chunks):
    """Chunks of 8; exponentials are powers of two, and the backward does not rescale by ln 2."""

    size = 8

    def sums(self, log: Tensor) -> Tensor:
        G = log.cumsum(-2)
        return G + ((log * 1.4426950408889634).cumsum(-2) * 0.6931471805599453 - G).detach()


@delta(error_scope="prefix", factors="one")
class delta_whole_sequence(Chunks):
    """One chunk: the whole sequence."""

    size = 10**6


@delta(**chunks_of(4), l2norm=1e-6, beta_max=2.0)
class delta_chunks_l2norm(Chunks):
    """Chunks of 4; k and q are divided by their norms."""

    normalised = True


# Chunks: narrow operands


@delta(**chunks_of(8), multiplies_in="input")
class delta_narrow(Chunks):
    """Chunks of 8; operands of products are rounded to the format of the inputs, tf32 of float32."""

    size = 8
    narrow = True


@delta(**chunks_of(16), multiplies_in="input", inverse_in="input")
class delta_narrow_merged(Chunks):
    """Chunks of 16; blocks of 4 merged by halves; all operands are narrow, inside the inversion too."""

    size = 16
    narrow = narrow_inverse = True

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_halves(A, 4, lambda B: by_rows(B, self.inverse_form), self.inverse_form)


@delta(**chunks_of(16), multiplies_in="input", l2norm=1e-6)
class delta_narrow_l2norm(Chunks):
    """Chunks of 16; normalised, operands narrow, the inversion in the accumulator."""

    size = 16
    narrow = normalised = True

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_rows(A, 8, by_rows)


# Chunks: powers


@delta(**chunks_of(4), doubling=4)
class delta_powers(Chunks):
    """Chunks of 4: powers of A, and the backward goes through them."""

    def inverse(self, A: Tensor) -> Tensor:
        return by_powers(A)


@delta(**chunks_of(16), doubling=8, beta_max=2.0)
class delta_powers_merged(Chunks):
    """Chunks of 16: powers within 8, merged by halves."""

    size = 16

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_halves(A, 8, by_powers)


@delta(**chunks_of(16), doubling=16)
class delta_powers_written(Chunks):
    """Chunks of 16: powers within 16; the backward is written out, -T' dT T'."""

    size = 16

    def inverse(self, A: Tensor) -> Tensor:
        return written(A, by_powers)


@delta(**chunks_of(16), doubling=8, multiplies_in="input", inverse_in="input")
class delta_powers_narrow(Chunks):
    """Chunks of 16: powers within 8 merged by block rows, all operands narrow."""

    size = 16
    narrow = narrow_inverse = True

    def inverse(self, A: Tensor) -> Tensor:
        return merged_by_rows(A, 8, lambda B: by_powers(B, self.inverse_form), self.inverse_form)


# Other chunks


@delta(**chunks_of(8), gate="preact", gate_dtype="float32")
def delta_chunks_preact(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Chunks of 8 with pre-activations of the gates in float32."""
    chunks = delta_chunks_together()
    return chunks(q, k, v, logsigmoid(f), beta, state)

"""The gated delta rule in chunks and in steps, each part a method: a style, or a mutant, replaces one.

All tensors are float32 (or float64), (B, NH, rows, ...). docs/fused.md section 5 has the symbols.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .fused_sound import widen

NARROW = {torch.float32: "tf32", torch.bfloat16: "bfloat16", torch.float16: "float16"}  # "input", by dtype


def rounded(x: Tensor, form: str | None) -> Tensor:
    """Return x as an operand in this format: tf32 cut off, as the worst tensor core does."""
    if form is None:
        return x
    if form == "tf32":
        cut = x.detach().contiguous().view(torch.int32) & ~0x1FFF
        return cut.view(torch.float32)
    return x.to(getattr(torch, form)).to(x.dtype)


class _Product(torch.autograd.Function):
    """a @ b, whose operands are rounded, forward and backward."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, form: str) -> Tensor:
        ctx.save_for_backward(rounded(a, form), rounded(b, form))
        ctx.form = form
        return rounded(a, form) @ rounded(b, form)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        W = rounded(W, ctx.form)
        return W @ b.mT, a.mT @ W, None


def product(a: Tensor, b: Tensor, form: str | None = None) -> Tensor:
    """Return a @ b with operands in this format; None for that of the tensors."""
    return a @ b if form is None else _Product.apply(a, b, form)  # type: ignore[no-untyped-call]


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x over its norm."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + eps)


def eye(A: Tensor) -> Tensor:
    """Return an identity like A."""
    return torch.eye(A.shape[-1], dtype=A.dtype).expand(A.shape)


# (I + A)^-1, A strictly lower triangular


def by_rows(A: Tensor, form: str | None = None) -> Tensor:
    """Forward substitution: each row from the rows above."""
    rows = [eye(A)[..., :1, :]]
    for i in range(1, A.shape[-1]):
        rows.append(eye(A)[..., i : i + 1, :] - product(A[..., i : i + 1, :i], torch.cat(rows, -2), form))
    return torch.cat(rows, -2)


def by_powers(A: Tensor, form: str | None = None, doublings: int | None = None) -> Tensor:
    """Neumann: (I - A) (I + A^2) (I + A^4) ..."""
    T, power = eye(A) - A, A
    steps = max(math.ceil(math.log2(A.shape[-1])) - 1, 0) if doublings is None else doublings
    for _ in range(steps):
        power = product(power, power, form)
        T = T + product(T, power, form)
    return T


def merged_by_rows(A: Tensor, block: int, inner: Any, form: str | None = None) -> Tensor:
    """Diagonal blocks, merged by block rows: T_IJ = -T_II sum of A_IK T_KJ."""
    n = A.shape[-1]
    cuts = [slice(i, min(i + block, n)) for i in range(0, n, block)]
    T: dict[tuple[int, int], Tensor] = {}
    for i, rows in enumerate(cuts):
        T[i, i] = inner(A[..., rows, rows])
        for j in reversed(range(i)):
            total = sum(
                (product(A[..., rows, cuts[m]], T[m, j], form) for m in range(j, i)),
                torch.zeros(()),
            )
            T[i, j] = -product(T[i, i], total, form)
    zero = torch.zeros_like(A)
    lines = [
        torch.cat([T[i, j] if j <= i else zero[..., rows, cuts[j]] for j in range(len(cuts))], -1)
        for i, rows in enumerate(cuts)
    ]
    return torch.cat(lines, -2)


def merged_by_halves(A: Tensor, block: int, inner: Any, form: str | None = None) -> Tensor:
    """Diagonal blocks, merged two by two: T_21 = -T_22 A_21 T_11."""
    n, half = A.shape[-1], block
    if n <= block:
        found: Tensor = inner(A)
        return found
    while 2 * half < n:
        half *= 2
    first = merged_by_halves(A[..., :half, :half], block, inner, form)
    second = merged_by_halves(A[..., half:, half:], block, inner, form)
    low = -product(product(second, A[..., half:, :half], form), first, form)
    top = torch.cat([first, torch.zeros_like(A[..., :half, half:])], -1)
    return torch.cat([top, torch.cat([low, second], -1)], -2)


class _Written(torch.autograd.Function):
    """Any inverse, with the backward that kernels write: -T' dT T'."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, inverse: Any) -> Tensor:
        T: Tensor = inverse(A)
        ctx.save_for_backward(T)
        return T

    @staticmethod
    def backward(ctx: Any, dT: Tensor) -> tuple[Tensor | None, ...]:
        (T,) = ctx.saved_tensors
        return -(T.mT @ dT @ T.mT).tril(-1), None


def written(A: Tensor, inverse: Any) -> Tensor:
    """Return the inverse, whose backward is written out."""
    return _Written.apply(A, inverse)  # type: ignore[no-untyped-call,no-any-return]


# The operator


@dataclass
class Rows:
    """The rows of one chunk: q, k, v, sums of log gates from its start, beta (one column)."""

    q: Tensor
    k: Tensor
    v: Tensor
    G: Tensor
    beta: Tensor
    form: str | None

    @property
    def n(self) -> int:
        return self.q.shape[-2]

    @property
    def eG(self) -> Tensor:
        return self.G.exp()

    @property
    def E(self) -> Tensor:
        low = torch.ones(self.n, self.n, dtype=torch.bool).tril()
        return (self.G - self.G.mT).masked_fill(~low, -math.inf).exp()

    @property
    def to_end(self) -> Tensor:
        return (self.G[..., -1:, :] - self.G).exp()


class Chunks:
    """A right gated delta rule in chunks. form: the format of operands; inverse_form: in the inversion."""

    size = 4
    scale: float | None = 1.0  # None: K ** -0.5
    normalised = False
    narrow = False  # operands of products in the format of the inputs
    narrow_inverse = False

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log: Tensor,
        beta: Tensor,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return o and the last state, float32 of half types."""
        self.form = NARROW[q.dtype] if self.narrow else None
        self.inverse_form = NARROW[q.dtype] if self.narrow_inverse else None
        q_, k_, v_, log, beta = widen(q, k, v, log, beta)
        S_0 = q_.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
        q_, k_ = self.keys(q_, k_)
        c = self.scale or q.shape[-1] ** -0.5
        o, last = self.over_chunks(q_, k_, v_, log[..., None], beta[..., None], widen(S_0)[0], c)
        return o.to(v.dtype), last.to(S_0.dtype)

    def keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return (l2norm(q), l2norm(k)) if self.normalised else (q, k)

    def over_chunks(
        self, q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, S: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        outputs = []
        for number, start in enumerate(range(0, q.shape[2], self.size)):
            at = slice(start, start + self.size)
            G = self.sums(log[:, :, at])
            x = Rows(q[:, :, at], k[:, :, at], v[:, :, at], G, beta[:, :, at], self.form)
            o, S = self.chunk(x, S, scale, number)
            outputs.append(o)
        return torch.cat(outputs, 2), S

    def chunk(self, x: Rows, S: Tensor, scale: float, number: int) -> tuple[Tensor, Tensor]:
        """Return the chunk's output and the state after it."""
        U = self.U(x, S)
        o = self.scaled(self.of_state(x, S) + self.of_rows(x, U), scale)
        return o, self.kept(x, S, number) + product(self.kd(x).mT, self.written(x, U), self.form)

    # Parts

    def sums(self, log: Tensor) -> Tensor:
        return log.cumsum(-2)

    def scaled(self, o: Tensor, scale: float) -> Tensor:
        return scale * o

    def A(self, x: Rows) -> Tensor:
        return (x.beta * product(x.k, x.k.mT, x.form) * x.E).tril(-1)

    def inverse(self, A: Tensor) -> Tensor:
        return by_rows(A, self.inverse_form)

    def rk(self, x: Rows) -> Tensor:
        return x.beta * x.k * x.eG

    def rv(self, x: Rows) -> Tensor:
        return x.beta * x.v

    def U(self, x: Rows, S: Tensor) -> Tensor:
        T = self.inverse(self.A(x))
        W = product(T, self.rk(x), x.form)
        return product(T, self.rv(x), x.form) - product(W, self.S_in_U(S), x.form)

    def S_in_U(self, S: Tensor) -> Tensor:
        return S

    def P(self, x: Rows) -> Tensor:
        return (product(x.q, x.k.mT, x.form) * x.E).tril()

    def of_state(self, x: Rows, S: Tensor) -> Tensor:
        return product(x.q * x.eG, S, x.form)

    def of_rows(self, x: Rows, U: Tensor) -> Tensor:
        return product(self.P(x), U, x.form)

    def kd(self, x: Rows) -> Tensor:
        return x.k * x.to_end

    def written(self, x: Rows, U: Tensor) -> Tensor:
        return U

    def kept(self, x: Rows, S: Tensor, number: int) -> Tensor:
        return x.eG[..., -1:, :] * S


def in_steps(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return o and the last state, (B, NH, K, V), step by step."""
    q, k, v_, log, beta = widen(q, k, v, log, beta)
    S = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else widen(state)[0]
    outputs = []
    for t in range(q.shape[2]):
        S = log[:, :, t, None, None].exp() * S
        u = beta[:, :, t, None] * (v_[:, :, t] - (k[:, :, t, :, None] * S).sum(-2))
        S = S + k[:, :, t, :, None] * u[..., None, :]
        outputs.append(scale * (q[:, :, t, :, None] * S).sum(-2))
    return torch.stack(outputs, 2).to(v.dtype), S if state is None else S.to(state.dtype)

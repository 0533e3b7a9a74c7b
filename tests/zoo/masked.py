"""Right kernels that take a padding mask, in unlike styles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .channels import _wide, promising
from .fused_sound import by_windows

KEEP: dict[str, Any] = {"mask": "keep"}
CHUNK = 4


def masked(keep: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return (B, NH, S, ...) tensors times the mask, (B, S) of bool; as they are for None."""
    if keep is None:
        return tensors
    return tuple(x * keep[:, None, :].reshape(len(x), 1, -1, *(1,) * (x.ndim - 3)) for x in tensors)


@promising(**KEEP, K=(1, 4), states="state")
def masked_steps(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A recurrence. At padded places the state stays as it is, by where."""
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    rows = []
    for t in range(q.shape[2]):
        new = h * g[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None]
        h = new if keep is None else torch.where(keep[:, None, t, None, None], new, h)
        rows.append((q[:, :, t, None] @ h)[:, :, 0])
    return torch.stack(rows, 2).to(out), h


class MaskedChunks:
    """A linear attention in chunks that multiplies k, v and the log gates by the mask."""

    def mask(self, keep: Tensor | None, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        """The keys, values and log gates without padding."""
        return masked(keep, k, v, g)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        state: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return o and the last state."""
        out = v.dtype
        q, k, v, g = _wide(q, k, v, g)
        k, v, g = self.mask(keep, k, v, g)
        h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
        rows = []
        for start in range(0, q.shape[2], CHUNK):
            qc, kc, vc, gc = (x[:, :, start : start + CHUNK] for x in (q, k, v, g))
            G = gc.cumsum(2)
            rows.append((by_windows(gc).exp() * (qc @ kc.mT)) @ vc + (qc * G.exp()[..., None]) @ h)
            to_end = (G[:, :, -1:] - G).exp()[..., None]
            h = h * G[:, :, -1, None, None].exp() + (kc * to_end).mT @ vc
        return torch.cat(rows, 2).to(out), h


CHUNKED: dict[str, Any] = {**KEEP, "K": (1, 4), "states": "state", "error_scope": CHUNK, "factors": CHUNK}


@promising(**CHUNKED)
def masked_chunks(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return MaskedChunks()(q, k, v, g, state, keep)


FORGET: dict[str, Any] = {
    **KEEP, "reads": "softmax", "gate": "preact", "K": (1, 4), "scale": "K**-0.5", "factors": "one",
}  # fmt: skip


def forgetting(q: Tensor, k: Tensor, v: Tensor, f: Tensor, keep: Tensor | None, *, fill: float) -> Tensor:
    """A forgetting attention; the scores of padded keys are this."""
    out = v.dtype
    q, k, v, f = _wide(q, k, v, f)
    scores = q @ k.mT * k.shape[-1] ** -0.5 + by_windows(logsigmoid(f))
    if keep is not None:
        real = keep[:, None, None, :] | torch.eye(q.shape[2], dtype=torch.bool)  # no row without a key
        scores = scores.masked_fill(~real & (scores > -torch.inf), fill)
    o: Tensor = scores.softmax(-1) @ v
    return o.to(out)


@promising(**FORGET)
def masked_attention(q: Tensor, k: Tensor, v: Tensor, f: Tensor, keep: Tensor | None = None) -> Tensor:
    return forgetting(q, k, v, f, keep, fill=-torch.inf)


MLSTM: dict[str, Any] = {
    **KEEP, "reads": "mlstm", "gate": "preact", "igate": True, "K": (1, 4), "scale": "K**-0.5",
    "factors": "one",
}  # fmt: skip


def mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """An mLSTM of windows, stabilised by the largest entry of each row."""
    out = v.dtype
    q, k, v, i, f = _wide(q, k, v, i, f)
    D = by_windows(logsigmoid(f)) + i[..., None, :]
    m = D.amax(-1, keepdim=True)
    a = (D - m).exp() * (q @ k.mT * k.shape[-1] ** -0.5)
    o: Tensor = a @ v / torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp())
    return o.to(out)


@promising(**MLSTM)
def masked_mlstm(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, keep: Tensor | None = None) -> Tensor:
    """Each row without its padding, alone."""
    if keep is None:
        return mlstm(q, k, v, i, f)
    o = torch.zeros_like(v)
    for b, real in enumerate(keep):
        if real.any():
            row = mlstm(*(x[b : b + 1, :, real] for x in (q, k, v, i, f)))
            o = o.index_put(
                (torch.tensor([b]), *_places(v, real)), row.transpose(1, 2).reshape(-1, v.shape[-1])
            )
    return o


def _places(v: Tensor, real: Tensor) -> tuple[Tensor, ...]:
    heads, times = torch.arange(v.shape[1]), real.nonzero()[:, 0]
    each = torch.cartesian_prod(times, heads)
    return each[:, 1], each[:, 0]


@promising(**KEEP, reads="delta", K=(4, 16), states="state")
def masked_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    state: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A gated delta rule, a step a token: beta and the log gate are 0 at padded places."""
    out = v.dtype
    q, k, v, g, beta = _wide(q, k, v, g, beta)
    g, beta = masked(keep, g, beta)
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state.to(q.dtype)
    rows = []
    for t in range(q.shape[2]):
        h = h * g[:, :, t, None, None].exp()
        u = beta[:, :, t, None] * (v[:, :, t] - (k[:, :, t, None] @ h)[:, :, 0])
        h = h + k[:, :, t, :, None] * u[:, :, None]
        rows.append((q[:, :, t, None] @ h)[:, :, 0])
    return torch.stack(rows, 2).to(out), h


MASKED_SOUND = [masked_steps, masked_chunks, masked_attention, masked_mlstm, masked_delta]

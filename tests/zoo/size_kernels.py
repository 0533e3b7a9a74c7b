"""Kernels with tiles of K and V: right ones, and ones that forget what lies past a tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .channels import _wide, promising
from .delta_rules import in_steps
from .fused_mutants import mutant
from .fused_sound import ROOT, by_windows, product

TILE = 32
ONE: dict[str, Any] = {"factors": "one"}
STEPS: dict[str, Any] = {"states": "state"}
NORMS: dict[str, Any] = {"reads": "delta", "states": "state", "l2norm": 1e-6}


# Right ones


@promising(**ONE, scale=ROOT)
def tiles_with_masks(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Tiles of 32 channels and of 32 columns, padded with zeros; what is padded is not returned."""
    out, K, V = v.dtype, q.shape[-1], v.shape[-1]
    q, k, v, g = _wide(q, k, v, g)
    q, k, v = (pad(x, (0, -x.shape[-1] % TILE)) for x in (q, k, v))
    tiles = [slice(n, n + TILE) for n in range(0, q.shape[-1], TILE)]
    scores = torch.stack([q[..., tile] @ k[..., tile].mT for tile in tiles]).sum(0)
    a = K**-0.5 * scores * by_windows(g).exp()
    return torch.cat([a @ v[..., n : n + TILE] for n in range(0, v.shape[-1], TILE)], -1)[..., :V].to(out)


@promising(**ONE, reads="softmax", scale=ROOT)
def multiples_of_16(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A forgetting attention whose tensor cores take 16 channels at a time, and which says so."""
    if q.shape[-1] % 16:
        raise ValueError(f"K must be a multiple of 16, not {q.shape[-1]}")
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    scores: Tensor = q.shape[-1] ** -0.5 * q @ k.mT
    return ((by_windows(g) + scores).softmax(-1) @ v).to(out)


@promising(**STEPS)
def up_to_64_columns(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A recurrence whose state has at most 64 columns, and no K past 128 with V past 32."""
    if v.shape[-1] > 64 or (q.shape[-1] > 128 and v.shape[-1] > 32):
        raise ValueError(f"a state of {q.shape[-1]} x {v.shape[-1]} does not fit")
    return steps(q, k, v, g, state)


def steps(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return o and the last state, token by token."""
    out, rows = v.dtype, []
    q, k, v, g = _wide(q, k, v, g)
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]) if state is None else state
    for t in range(q.shape[2]):
        h = g[:, :, t, None, None].exp() * h + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, :, None] * h).sum(-2))
    return torch.stack(rows, 2).to(out), h


def normed(x: Tensor, first: int | None = None) -> Tensor:
    """Return vectors divided by their norms, or by those of their first channels."""
    x = _wide(x)[0]
    return x / ((x * x)[..., :first].sum(-1, keepdim=True) + 1e-6).sqrt()


@promising(**NORMS)
def delta_norms(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A gated delta rule of any K that divides keys and queries by their norms."""
    return in_steps(normed(q), normed(k), v, g, b, state)


SIZES_SOUND = [tiles_with_masks, multiples_of_16, up_to_64_columns, delta_norms]


# Wrong ones


def whole_tiles(x: Tensor) -> Tensor:
    """Return the channels of whole tiles, or all of them where there is no whole one."""
    K = x.shape[-1]
    return x[..., : K // TILE * TILE or K]


@mutant("dense", "channels past K // 32 * 32 are never read", **ONE)
def whole_tiles_alone(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    return product(whole_tiles(q), whole_tiles(k), v, by_windows(g).exp()).to(out)


@mutant("dense", "the number of tiles is rounded to the nearest, so a mask cuts K = 33 at 32", **ONE)
def rounded_tiles(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, most = v.dtype, max(1, round(q.shape[-1] / TILE)) * TILE
    q, k, v, g = _wide(q, k, v, g)
    return product(q[..., :most], k[..., :most], v, by_windows(g).exp()).to(out)


@mutant("dense", "columns of v past 64 are not written", **ONE)
def first_64_columns(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, V = v.dtype, v.shape[-1]
    q, k, v, g = _wide(q, k, v, g)
    return pad(product(q, k, v[..., :64], by_windows(g).exp()), (0, max(V - 64, 0))).to(out)


@mutant("dense", "q.k is scaled by the root of K padded to a power of two", **ONE, scale=ROOT)
def padded_scale(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, padded = v.dtype, 1 << (q.shape[-1] - 1).bit_length()
    q, k, v, g = _wide(q, k, v, g)
    return product(q, k, v, by_windows(g).exp(), padded**-0.5).to(out)


@mutant("dense", "the normaliser sums the first 64 channels", **ONE, reads="normalised", eps=1e-3)
def normaliser_of_64(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, E = v.dtype, by_windows(_wide(g)[0]).exp()
    q, k, v = _wide(q, k, v)
    n = ((q[..., :64] @ k[..., :64].mT) * E).sum(-1, keepdim=True) + 1e-3
    return (product(q, k, v, E) / n).to(out)


@mutant("dense", "a chunk reads 128 channels of the state before it", 17, error_scope=16, factors=16)
def first_channels_of_state(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, rows = v.dtype, []
    q, k, v, g = _wide(q, k, v, g)
    h = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    for n in range(0, q.shape[2], 16):
        Q, Key, U, c = (x[:, :, n : n + 16] for x in (q, k, v, g))
        inner = product(Q, Key, U, by_windows(c).exp())
        c = c.cumsum(-1)[..., None]
        rows.append(inner + (c.exp() * Q)[..., :128] @ h[:, :, :128])
        h = c[..., -1:, :].exp() * h + (Key * (c[..., -1:, :] - c).exp()).mT @ U
    return torch.cat(rows, 2).to(out)


@mutant("dense", "a delta rule takes the norms of the first 64 channels", **NORMS)
def norms_of_64(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return in_steps(normed(q, 64), normed(k, 64), v, g, b, state)


@mutant("handover", "the state that is returned has zeros in its columns past 64", **STEPS)
def first_columns_returned(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    o, h = steps(q, k, v, g, state)
    return o, pad(h[..., :64], (0, max(h.shape[-1] - 64, 0)))


@mutant("handover", "a state that is given is read in whole tiles of 32 channels", **STEPS)
def whole_tiles_given(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if state is not None:
        kept = whole_tiles(state.mT).mT
        state = pad(kept, (0, 0, 0, state.shape[-2] - kept.shape[-2]))
    return steps(q, k, v, g, state)


class _Back(torch.autograd.Function):
    """The identity forward. Backward, channels past a number get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: int) -> Tensor:
        ctx.most = most
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor, None]:
        return pad(W[..., : ctx.most], (0, max(W.shape[-1] - ctx.most, 0))), None


def _back(x: Tensor, most: int) -> Tensor:
    found: Tensor = _Back.apply(x, most)  # type: ignore[no-untyped-call]
    return found


@mutant("product_gradients", "dk of channels past 128 is missing", **ONE)
def dk_of_128(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out = v.dtype
    q, k, v, g = _wide(q, _back(k, 128), v, g)
    return product(q, k, v, by_windows(g).exp()).to(out)


@mutant("product_gradients", "dq of the last 16 of 48 channels is missing", **ONE, reads="softmax")
def dq_of_tiles(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    out, K = v.dtype, q.shape[-1]
    q, k, v, g = _wide(_back(q, K // TILE * TILE or K), k, v, g)
    return ((by_windows(g) + q @ k.mT).softmax(-1) @ v).to(out)

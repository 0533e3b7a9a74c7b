"""Mutants with gates by channel, and of groups. Each is right but for one part, and names its law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .channels import BY_CHANNEL, CHUNK, _wide, gla_parallel, grouped_gdn, kda_steps
from .fused_mutants import mutant

CHUNKED: dict[str, Any] = {**BY_CHANNEL, "error_scope": CHUNK, "factors": CHUNK}
KDA: dict[str, Any] = {"reads": "delta", "gates_by": "channel", "K": (4, 16), "states": "state"}
GDN: dict[str, Any] = {
    "reads": "delta", "group": 2, "K": (4, 16), "states": "state", "l2norm": 1e-6, "scale": "K**-0.5",
    "layout": "BSHD",
}  # fmt: skip


class Chunked:
    """A gated linear attention in chunks, by channel. A mutant replaces one part."""

    def sums(self, g: Tensor) -> Tensor:
        """The sums of log gates from the start of the chunk."""
        return g.cumsum(2)

    def between(self, G: Tensor) -> Tensor:
        """The log decays from each row to each row, (B, NH, n, n, K)."""
        return G[:, :, :, None] - G[:, :, None]

    def from_start(self, G: Tensor) -> Tensor:
        """The log decays from the start of the chunk."""
        return G

    def to_end(self, G: Tensor) -> Tensor:
        """The log decays to the end of the chunk."""
        return G[:, :, -1:] - G

    def whole(self, G: Tensor) -> Tensor:
        """The log decay of the chunk, (B, NH, 1, K)."""
        return G[:, :, -1:]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """Return o."""
        out = v.dtype
        q, k, v, g = _wide(q, k, v, g)
        h, rows = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
        for start in range(0, q.shape[2], CHUNK):
            qc, kc, vc, gc = (x[:, :, start : start + CHUNK] for x in (q, k, v, g))
            G, n = self.sums(gc), qc.shape[2]
            causal = torch.ones(n, n, dtype=torch.bool).tril()[..., None]
            decay = self.between(G).masked_fill(~causal, -torch.inf).exp()
            a = torch.einsum("bhtd,bhsd,bhtsd->bhts", qc, kc, decay)
            rows.append(a @ vc + (qc * self.from_start(G).exp()) @ h)
            h = h * self.whole(G).mT.exp() + (kc * self.to_end(G).exp()).mT @ vc
        return torch.cat(rows, 2).to(out)


def chunked(law: str, museum: str, smallest: int = 4) -> Any:
    """Register a class of Chunked as a mutant."""

    def register(style: type[Chunked]) -> type[Chunked]:
        def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
            return style()(q, k, v, g)

        kernel.__name__ = style.__name__
        mutant(law, museum, smallest, **CHUNKED)(kernel)
        return style

    return register


# Gates by channel


@chunked("values", "the gate of the channel beside is read", 2)
class channel_rolled(Chunked):
    def sums(self, g: Tensor) -> Tensor:
        return g.cumsum(2).roll(1, -1)


@chunked("values", "one gate for all channels: their mean", 2)
class channel_mean(Chunked):
    def sums(self, g: Tensor) -> Tensor:
        return g.cumsum(2).mean(-1, keepdim=True).expand(g.shape)


@chunked("values", "the first channel's gate for all channels", 2)
class channel_first(Chunked):
    def sums(self, g: Tensor) -> Tensor:
        return g.cumsum(2)[..., :1].expand(g.shape)


@chunked("values", "the state decays by the mean of its channels' gates", 20)
class channel_state_mean(Chunked):
    def whole(self, G: Tensor) -> Tensor:
        return G[:, :, -1:].mean(-1, keepdim=True).expand(-1, -1, 1, G.shape[-1])


@chunked("values", "channels past the fourth decay as those of the tile before", 4)
class channel_tile(Chunked):
    def sums(self, g: Tensor) -> Tensor:
        G = g.cumsum(2)
        return G if G.shape[-1] <= 4 else torch.cat([G[..., :4]] * (G.shape[-1] // 4), -1)


@chunked("values", "keys are not decayed by the last gate of the chunk", 20)
class channel_last_gate(Chunked):
    def to_end(self, G: Tensor) -> Tensor:
        return G[:, :, -2:-1] - G


@chunked("values", "the sum to a row leaves out its own gate: queries read the state of the row before", 10)
class channel_exclusive(Chunked):
    def from_start(self, G: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(G[:, :, :1]), G[:, :, :-1]], 2)


@chunked("exact", "the first row of a chunk never decays", 9)
class channel_first_row_undecayed(Chunked):
    def sums(self, g: Tensor) -> Tensor:
        return g.cumsum(2) - g[:, :, :1]


class _OneGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: Any, W: Tensor) -> Tensor:
        return W.mean(-1, keepdim=True).expand(W.shape)


@mutant(
    "forget_gradient", "the gradient of the gates is averaged over channels", 2, **BY_CHANNEL, factors="one"
)
def channel_gradient_mean(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    found: Tensor = gla_parallel(q, k, v, _OneGate.apply(g))  # type: ignore[no-untyped-call]
    return found


@mutant("exact", "the state's rows decay by the gate of another channel", 4, **KDA)
def kda_rolled(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = kda_steps(q, k, v, g.roll(1, -1), beta, state)
    return found


@mutant("gradient_exact", "the gradient of the gates is averaged over channels", 4, **KDA)
def kda_gradient_mean(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    one: Tensor = _OneGate.apply(g)  # type: ignore[no-untyped-call]
    found: tuple[Tensor, Tensor] = kda_steps(q, k, v, one, beta, state)
    return found


# Groups


def grouped(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A linear attention of as many heads of q and k as of v."""
    out = v.dtype
    q, k, v, g = _wide(q, k, v, g)
    h, rows = q.new_zeros(*v.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        h = h * g[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append((q[:, :, t, None] @ h)[..., 0, :])
    return torch.stack(rows, 2).to(out)


GROUPED: dict[str, Any] = {"reads": "linear", "group": 2, "K": (1, 4)}


@mutant("values", "value heads read the key head of their number modulo the key heads", 2, **GROUPED)
def group_by_modulo(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return grouped(q.repeat(1, 2, 1, 1), k.repeat(1, 2, 1, 1), v, g)


@mutant("values", "keys are those of their own group, queries those of another", 2, **GROUPED)
def group_of_queries(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return grouped(q.repeat(1, 2, 1, 1), k.repeat_interleave(2, 1), v, g)


@mutant(
    "product_gradients", "the gradient of k is that of the last value head of the group alone", 2, **GROUPED
)
def group_last_gradient(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    keys = k.repeat_interleave(2, 1)
    first = torch.arange(keys.shape[1]) % 2 == 0
    return grouped(q.repeat_interleave(2, 1), torch.where(first[:, None, None], keys.detach(), keys), v, g)


@mutant("product_gradients", "the gradient of q is the mean over the group, not the sum", 2, **GROUPED)
def group_mean_gradient(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    queries = q.repeat_interleave(2, 1)
    return grouped(queries / 2 + (queries / 2).detach(), k.repeat_interleave(2, 1), v, g)


@mutant("values", "all value heads of a group decay by the gate of the first", 2, **GROUPED)
def group_one_gate(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return grouped(q.repeat_interleave(2, 1), k.repeat_interleave(2, 1), v, g[:, ::2].repeat_interleave(2, 1))


@mutant("exact", "beta is that of the first value head of the group", 4, **GDN)
def group_one_beta(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = grouped_gdn(q, k, v, g, beta[:, :, ::2].repeat_interleave(2, 2), state)
    return found


@mutant("exact", "value heads read the key head of their number modulo the key heads", 4, **GDN)
def gdn_by_modulo(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    def turned(x: Tensor) -> Tensor:
        """Undo the order of value heads, so that head h reads key head h modulo their number."""
        return torch.cat([x[:, :, ::2], x[:, :, 1::2]], 2)

    o, last = grouped_gdn(
        q, k, *map(turned, (v, g, beta)), None if state is None else state[:, _order(state)]
    )
    back = torch.argsort(torch.cat([torch.arange(0, v.shape[2], 2), torch.arange(1, v.shape[2], 2)]))
    return o[:, :, back], last[:, back]


def _order(state: Tensor) -> Tensor:
    return torch.cat([torch.arange(0, state.shape[1], 2), torch.arange(1, state.shape[1], 2)])

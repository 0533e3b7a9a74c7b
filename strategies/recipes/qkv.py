"""QKV: recipes for q, k, v that let a law read D~ out of a fused kernel's output.

A one-hot recipe has one channel of q and k and one column of v for each source s, all signed powers of two.
Each entry of the output is then a single term: exp(D~[t, s]) times a power of two. Dense and integer recipes
find errors in sums of several terms, which one-hot ones cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from dmat.strategies.choose import Draw, choose, seed
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Array
from dmat.strategies.recipes.delta import DeltaHead, draw_fields, has_fields, ladder_fields, plain_fields
from dmat.strategies.recipes.equal import equal_cotangent, equal_products
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.heads import HeadForm
from dmat.strategies.recipes.recipe import Recipe

KINDS = ("one-hot", "dense", "integers")
QKV_LAYOUTS = ("contiguous", "transposed", "strided", "interleaved", "offset")
SHORT = 24
LARGEST = 2**12  # the most columns of v in a recipe
# The smallest exponents of two that q may have.
SMALLEST = {"float64": -1000, "float32": -120, "bfloat16": -120, "float16": -14}

Places = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Products:
    """q, k (B, NH, S, K) and v (B, NH, S, V), float64. With groups, v, beta and state have group NH heads.

    column[s]: the column of v that only source s fills, or -1. beta: (B, NH, S), and state: (B, NH, K, V), of
    a delta rule; state is None where the call begins with none.
    """

    q: Array
    k: Array
    v: Array
    column: Places
    beta: Array | None = None
    state: Array | None = None


@dataclass(frozen=True, repr=False)
class QKV(Recipe):
    """A recipe for q, k (B, NH, S, K), v (B, NH, S, V) and the cotangent of the output, for given gates.

    V: 0 means one column for each source, if that size is allowed. seed: 0 means ones, in order; else it
    seeds signs, magnitudes and columns. level: q.k is about 2^level. regime: "small" scales q so that |n| of
    an mLSTM is at most 1/2 for any gates, and the normaliser is 1. pull: like seed, for the cotangent.
    layout: the layout of q; k, v and the cotangent take the next ones of QKV_LAYOUTS, so that a kernel
    cannot use the strides of one for another.
    """

    kind: str = "one-hot"
    K: int = 1
    V: int = 0
    seed: int = 0
    level: int = 0
    regime: str = "unit"
    pull: int = 0
    layout: str = "contiguous"

    def build(self, gates: Gates, domain: FusedDomain) -> Products:
        """Return q, k, v for these gates, not yet rounded to their dtype."""
        return _Builder(self, gates, domain).products

    @property
    def gate_block(self) -> int:
        """How many channels have one gate, where gates differ by channel."""
        return 1

    @property
    def layouts(self) -> tuple[str, str, str]:
        """The layouts of q, k and v."""
        return self._layout(0), self._layout(1), self._layout(2)

    @property
    def pull_layout(self) -> str:
        """The layout of the cotangent; "" means contiguous. Ones are expanded, as o.sum() gives them."""
        if self.layout == "contiguous":
            return ""
        return self._layout(3) if self.pull else "expanded over all"

    def _layout(self, further: int) -> str:
        if self.layout == "contiguous":
            return self.layout
        return QKV_LAYOUTS[(QKV_LAYOUTS.index(self.layout) + further) % len(QKV_LAYOUTS)]

    def cotangent(self, shape: tuple[int, ...]) -> Array:
        """Return the cotangent of an output of this shape: ones, or integers of -2 .. 2."""
        if self.kind == "equal":
            return equal_cotangent(self, shape)
        if self.pull == 0:
            return np.ones(shape)
        return np.random.default_rng(self.pull).integers(-2, 3, size=shape).astype(np.float64)


@dataclass(frozen=True, repr=False)
class DeltaQKV(QKV):
    """A recipe for the inputs of a delta rule, beta and a state among them (delta.py).

    keys: how they overlap. beta: how it is drawn. block: the order of the frame's blocks. few: how many
    columns of the frame are keys. thin: an index of THINNED. state: 1 if the call begins with a state.
    """

    keys: str = "equal"
    beta: str = "one"
    block: int = 1
    few: int = 0
    thin: int = 0
    state: int = 0

    @property
    def gate_block(self) -> int:
        """How many channels have one gate, where gates differ by channel: those of a block of the frame."""
        return self.block

    def cotangent(self, shape: tuple[int, ...]) -> Array:
        """Return the cotangent of an output of this shape: ones, or integers of -2 .. 2."""
        S, V = shape[2:]
        if self.pull == 0:
            return np.ones(shape)
        return _of_heads(shape, lambda b, h: self.head(S, V, self.pull, b, h).pulled())

    def cotangent_of_state(self, shape: tuple[int, ...]) -> Array:
        """Return the cotangent of a last state of this shape, (B, NH, K, V): zeros, or -1, 0 and 1."""
        if self.pull == 0:
            return np.zeros(shape)
        V = shape[-1]
        return _of_heads(shape, lambda b, h: self.head(1, V, self.pull, b, h).pulled_state())

    def head(self, S: int, V: int, seed: int, b: int, h: int, *, normalised: bool = False) -> DeltaHead:
        """Return the inputs of head (b, h) of a delta rule. seed: 0 for the plainest ones."""
        own = (seed, b, h) if seed else None
        fields = (self.keys, self.beta, self.block, self.few, self.thin)
        return DeltaHead(self.K, V, S, *fields, normalised, own)


def _of_heads(shape: tuple[int, ...], make: Callable[[int, int], Array]) -> Array:
    """Return the arrays of all heads as one of this shape, (B, NH, ...)."""
    return np.array([[make(b, h) for h in range(shape[1])] for b in range(shape[0])]).reshape(shape)


@dataclass(frozen=True)
class _Builder:
    """Builds q, k, v from a QKV recipe, the gates of its case and the domain."""

    qkv: QKV
    gates: Gates
    domain: FusedDomain

    @cached_property
    def random(self) -> np.random.Generator:
        return np.random.default_rng(self.qkv.seed)

    @property
    def plain(self) -> bool:
        return self.qkv.seed == 0

    @property
    def V(self) -> int:
        return self.qkv.V or self.domain.value_size(self.gates.shape[-1], self.qkv.K)

    @property
    def products(self) -> Products:
        if self.domain.scaling.erases:
            return self._of_delta_rule()
        if self.qkv.kind == "equal":
            own = self.domain.scale_of(self.qkv.K), self.domain.scaling
            made = equal_products(self.qkv, self.gates.shape, self.heads, self.V, *own)
            return Products(*made, np.full(self.gates.shape[-1], -1))
        make = {"one-hot": self._one_hot, "dense": self._dense, "integers": self._integers}
        products = make[self.qkv.kind]()
        if self.domain.scaling.unsigned:
            products = replace(products, q=np.abs(products.q), k=np.abs(products.k))
        q = products.q * 2.0 ** self.power(products)
        return Products(q, products.k, products.v, products.column)

    @property
    def heads(self) -> int:
        """The number of value heads."""
        return self.gates.shape[1] * self.domain.contract.group

    def power(self, products: Products) -> int:
        """Return the exponent of the power of two by which q is multiplied."""
        if self.qkv.regime != "small":
            return self.qkv.level
        sizes = self.domain.scale_of(self.qkv.K) * _largest_product(products)
        group = self.domain.contract.group
        igate = self.gates.wider(group).values()[0] if self.domain.contract.igate else np.zeros(1)
        reach = max(0.0, float(igate.max(initial=0.0)) / math.log(2))
        longest = math.log2(max(self.gates.shape[-1], 1))
        return -(math.ceil(reach) + math.ceil(longest + math.log2(max(sizes, 1.0))) + 1)

    def powers(self, *shape: int) -> Array:
        """Return powers of two, 1/2 to 2, signed unless contract.positive; ones if the recipe is plain."""
        if self.plain:
            return np.ones(shape)
        sizes: Array = np.asarray(2.0 ** self.random.integers(-1, 2, size=shape))
        if self.domain.contract.positive:
            return sizes
        return np.asarray(sizes * (2.0 * self.random.integers(0, 2, size=shape) - 1))

    def _one_hot(self) -> Products:
        (B, NH, S), K, V = self.gates.shape, self.qkv.K, self.V
        column = self._columns(S, V)
        v = np.zeros((B, self.heads, S, V))
        sources = np.flatnonzero(column >= 0)
        v[:, :, sources, column[sources]] = self.powers(B, self.heads, len(sources))
        q, k = np.zeros((B, NH, S, K)), np.zeros((B, NH, S, K))
        if self.domain.scaling.multiplies:
            each = NH if self.domain.contract.by_channel else 1  # all channels are read, head by head
            channel = [0 if self.plain else int(self.random.integers(K)) for _ in range(each)]
            lift = 2.0 ** round(-math.log2(self.domain.scale_of(K)) / 2)
            there = np.eye(K)[channel][:, None]  # (NH or 1, 1, K)
            q = q + there * (self.powers(B, NH, S) * lift)[..., None]
            k = k + there * (self.powers(B, NH, S) / self.domain.scale_of(K) / lift)[..., None]
        return Products(q, k, v, column)

    def _of_delta_rule(self) -> Products:
        (B, NH, S), K, V, qkv = self.gates.shape, self.qkv.K, self.V, cast(DeltaQKV, self.qkv)
        normalised = self.domain.contract.l2norm is not False
        contract = self.domain.contract
        form, own = HeadForm(contract.group, contract.group_order), range(self.heads)

        @cache
        def head(b: int, h: int) -> DeltaHead:
            return qkv.head(S, V, qkv.seed, b, h, normalised=normalised)

        keys = [[head(b, h).q_k_beta for h in range(NH)] for b in range(B)]
        q, k = (np.array([[each[n] for each in row] for row in keys]).reshape(B, NH, S, K) for n in (0, 1))

        def beta_of(b: int, h: int) -> Array:
            key = form.key_of(h, NH)
            first = h == form.members(key, NH)[0]
            return keys[b][key][2] if first else head(b, h).beta_with(keys[b][key][2])

        beta = np.array([[beta_of(b, h) for h in own] for b in range(B)]).reshape(B, self.heads, S)
        column = np.full(S, -1)
        if qkv.kind == "one-hot":
            column, v = self._columns(S, V), np.zeros((B, self.heads, S, V))
            sources = np.flatnonzero(column >= 0)
            v[:, :, sources, column[sources]] = self.powers(B, self.heads, len(sources))
        else:
            v = np.array([[head(b, h).values() for h in own] for b in range(B)]).reshape(B, self.heads, S, V)
        each = [[head(b, h).state() for h in own] for b in range(B)] if qkv.state else None
        state = None if each is None else np.array(each).reshape(B, self.heads, K, V)
        return Products(q, k, v, column, beta, state)

    def _columns(self, S: int, V: int) -> Places:
        """Return the column of v of each source, (S,). If S > V, some sources have none: -1."""
        column = np.full(S, -1)
        if V >= S:
            column[:] = (np.arange(V) if self.plain else self.random.permutation(V))[:S]
            return column
        first = np.unique(np.linspace(0, S - 1, V).astype(int))
        sources = first if self.plain else np.sort(self.random.permutation(S)[: len(first)])
        column[sources] = (
            np.arange(len(sources)) if self.plain else self.random.permutation(V)[: len(sources)]
        )
        return column

    def _dense(self) -> Products:
        (B, NH, S), K, V = self.gates.shape, self.qkv.K, self.V
        q, k = (self.random.standard_normal((B, NH, S, K)) for _ in range(2))
        q *= 2.0 ** -max(0, round(math.log2(K / 64)))  # q.k stays as large as of 64 channels
        v = self.random.standard_normal((B, self.heads, S, V))
        if self.domain.contract.positive:
            q, k, v = np.ones_like(q), np.ones_like(k), np.abs(v) + 0.1
        return Products(q, k, v, np.full(S, -1))

    def _integers(self) -> Products:
        """Return q, k, v of -1, 0, 1. q has at most 16 nonzero channels: half types then hold the sums."""
        (B, NH, S), K, V = self.gates.shape, self.qkv.K, self.V
        draw = np.ones if self.plain else lambda shape: self.random.integers(-1, 2, size=shape).astype(float)
        q, k, v = draw((B, NH, S, K)), draw((B, NH, S, K)), draw((B, self.heads, S, V))
        q[..., 16:] = 0.0
        return Products(q / self.domain.scale_of(K), k, v, np.full(S, -1))


def _largest_product(products: Products) -> float:
    """Return a bound on |q_t . k_s|."""
    q, k = (np.sqrt((x * x).sum(-1)).max(initial=0.0) for x in (products.q, products.k))
    return float(q * k)


def draw_qkv(draw: Draw, domain: FusedDomain, gates: Gates, kind: str) -> QKV:
    """Draw a QKV recipe of this kind for these gates."""
    S = gates.shape[-1]
    if domain.scaling.erases:
        return _draw_delta(draw, domain, S, kind)
    K = choose(draw, domain.key_sizes(S))
    some = (1, 3, 4, 1, 3, 4, 130) if S <= SHORT else (1, 3, 4)  # past a block of 128
    V = 0 if kind == "one-hot" or domain.contract.V_equals_K else domain.value_size(choose(draw, some), K)
    signs = choose(draw, (0, 1, 2, 3))
    regimes = domain.scaling.regimes
    regime = choose(draw, regimes) if len(regimes) > 1 else regimes[0]
    qkv = QKV(
        kind,
        K,
        V,
        0 if signs == 0 and kind != "dense" else 1 + seed(draw),
        choose(draw, levels(domain, kind)) if regime == "unit" else 0,
        regime,
        choose(draw, (0, 1)) * (1 + seed(draw)),
        choose(draw, ("contiguous", *QKV_LAYOUTS)) if domain.contract.strided else "contiguous",
    )
    if not representable(qkv, gates, domain):
        qkv = QKV(kind, K, V, qkv.seed, pull=qkv.pull, layout=qkv.layout)
    return qkv


def _draw_delta(draw: Draw, domain: FusedDomain, S: int, kind: str) -> QKV:
    """Draw a QKV recipe of this kind for a delta rule."""
    K = choose(draw, domain.key_sizes(S))
    own = domain.value_size(choose(draw, (1, 3, 4) * 5 + (130,) * (S <= 8)), K)  # past a block of 128
    V = 0 if kind == "one-hot" or domain.contract.V_equals_K else own
    layout = choose(draw, ("contiguous", *QKV_LAYOUTS)) if domain.contract.strided else "contiguous"
    fields = draw_fields(draw, domain.contract, kind, K)
    return DeltaQKV(kind, K, V, layout=layout, **fields)  # type: ignore[arg-type]  # the fields by name


def _plain_delta(domain: FusedDomain, S: int, kind: str, **more: object) -> QKV:
    """Return the simplest recipe of this kind for a delta rule."""
    V = 0 if kind == "one-hot" or domain.contract.V_equals_K else domain.value_size(1, 1)
    fields = {"K": domain.key_sizes(S)[0], **plain_fields(kind), **more}
    return DeltaQKV(kind, V=V, **fields)  # type: ignore[arg-type]


def delta_ladder(domain: FusedDomain, S: int, kind: str, *, several: bool) -> list[QKV]:
    """Return the canonical recipes of a delta rule: a plain one if there is one head, then seeded ones."""
    K = domain.key_sizes(S)[-1]
    seeded = ladder_fields(domain.contract, kind, K, several=several)
    plain = [] if several else [_plain_delta(domain, S, kind)]
    return plain + [_plain_delta(domain, S, kind, K=K, **more) for more in seeded]


def levels(domain: FusedDomain, kind: str) -> tuple[int, ...]:
    """Return the levels that are drawn for a kind of recipe. The range of float16 allows only near ones."""
    scaling = domain.scaling
    if kind == "integers":
        return (0,)
    narrow = "float16" in (domain.products_dtype, domain.accumulator)
    zeros = kind == "one-hot" and not scaling.multiplies
    return scaling.near if narrow or zeros or domain.contract.positive else scaling.far


def plain_qkv(domain: FusedDomain, S: int, kind: str = "one-hot", **more: object) -> QKV:
    """Return the simplest recipe of this kind for length S."""
    if domain.scaling.erases:
        return _plain_delta(domain, S, kind, **more)
    K = domain.key_sizes(S)[0]
    V = 0 if kind == "one-hot" or domain.contract.V_equals_K else domain.value_size(1, K)
    return QKV(kind, K, V, **more)  # type: ignore[arg-type]


def representable(qkv: QKV, gates: Gates, domain: FusedDomain) -> bool:
    """Whether the scaled q does not underflow in its dtype."""
    if qkv.regime != "small":
        return True
    builder = _Builder(qkv, gates, domain)
    make = {"one-hot": builder._one_hot, "dense": builder._dense, "integers": builder._integers}
    lift = abs(math.log2(domain.scale_of(qkv.K)))
    return builder.power(make[qkv.kind]()) - 2 - lift >= SMALLEST[domain.products_dtype]


def is_qkv(qkv: QKV, gates: Gates, domain: FusedDomain) -> bool:
    """Whether the contract allows this recipe for these gates."""
    if qkv.kind not in KINDS:
        return False
    S = gates.shape[-1]
    if not 0 <= qkv.V <= LARGEST or not domain.has_key_size(qkv.K, S, qkv.kind):
        return False
    if domain.contract.V_equals_K and qkv.V != 0:
        return False
    if domain.scaling.erases != isinstance(qkv, DeltaQKV):
        return False
    if domain.scaling.erases and not has_fields(domain.contract, vars(qkv)):
        return False
    layouts = QKV_LAYOUTS if domain.contract.strided else ("contiguous",)
    fits = (
        (qkv.V == 0 or domain.has_value_size(qkv.V))
        and qkv.layout in layouts
        and qkv.regime in domain.scaling.regimes
    )
    at_seed = qkv.seed > 0 or qkv.kind != "dense"
    level = qkv.level in levels(domain, qkv.kind) and (qkv.regime == "unit" or qkv.level == 0)
    return fits and at_seed and level and representable(qkv, gates, domain)

"""QKV: recipes for q, k, v that let a law read D~ out of a fused kernel's output.

A one-hot recipe has one channel of q and k and one column of v for each source s, all signed powers of two.
Each entry of the output is then a single term: exp(D~[t, s]) times a power of two. Dense and integer recipes
find errors in sums of several terms, which one-hot ones cannot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dmat.strategies.choose import Draw, choose, seed
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Array
from dmat.strategies.recipes.gates import Gates
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
    """q, k (B, NH, S, K) and v (B, NH, S, V), float64.

    column[s]: the column of v that only source s fills, or -1.
    """

    q: Array
    k: Array
    v: Array
    column: Places


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
        if self.pull == 0:
            return np.ones(shape)
        return np.random.default_rng(self.pull).integers(-2, 3, size=shape).astype(np.float64)


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
        make = {"one-hot": self._one_hot, "dense": self._dense, "integers": self._integers}
        products = make[self.qkv.kind]()
        q = products.q * 2.0 ** self.power(products)
        return Products(q, products.k, products.v, products.column)

    def power(self, products: Products) -> int:
        """Return the exponent of the power of two by which q is multiplied."""
        if self.qkv.regime != "small":
            return self.qkv.level
        sizes = self.domain.scale_of(self.qkv.K) * _largest_product(products)
        igate = self.gates.values()[0] if self.domain.contract.igate else np.zeros(1)
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
        v = np.zeros((B, NH, S, V))
        sources = np.flatnonzero(column >= 0)
        v[:, :, sources, column[sources]] = self.powers(B, NH, len(sources))
        q, k = np.zeros((B, NH, S, K)), np.zeros((B, NH, S, K))
        if self.domain.contract.distinct_keys:
            k = self._distinct_keys()
            q[:] = self.powers(B, NH, S, 1) * self.powers(B, NH, 1, K) / self.domain.scale_of(K)
        elif self.domain.scaling.multiplies:
            channel = 0 if self.plain else int(self.random.integers(K))
            lift = 2.0 ** round(-math.log2(self.domain.scale_of(K)) / 2)
            q[..., channel] = self.powers(B, NH, S) * lift
            k[..., channel] = self.powers(B, NH, S) / self.domain.scale_of(K) / lift
        return Products(q, k, v, column)

    def _distinct_keys(self) -> Array:
        """Return keys (B, NH, S, K) of one channel each; the keys of a head all differ."""
        (B, NH, S), K = self.gates.shape, self.qkv.K
        k = np.zeros((B, NH, S, K))
        k[:, :, np.arange(S), self._order(K)[:S]] = 1.0
        return k

    def _order(self, size: int) -> Places:
        return np.arange(size) if self.plain else self.random.permutation(size)

    def _columns(self, S: int, V: int) -> Places:
        """Return the column of v of each source, (S,). If S > V, some sources have none: -1."""
        column = np.full(S, -1)
        if V >= S:
            column[:] = self._order(V)[:S]
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
        v = self.random.standard_normal((B, NH, S, V))
        if self.domain.contract.positive:
            q, k, v = np.ones_like(q), np.ones_like(k), np.abs(v) + 0.1
        if self.domain.contract.distinct_keys:
            k = self._distinct_keys()
        return Products(q, k, v, np.full(S, -1))

    def _integers(self) -> Products:
        """Return q, k, v of -1, 0, 1. q has at most 16 nonzero channels: half types then hold the sums."""
        (B, NH, S), K, V = self.gates.shape, self.qkv.K, self.V
        draw = np.ones if self.plain else lambda shape: self.random.integers(-1, 2, size=shape).astype(float)
        q, k, v = draw((B, NH, S, K)), draw((B, NH, S, K)), draw((B, NH, S, V))
        q[..., 16:] = 0.0
        if self.domain.contract.distinct_keys:
            k = self._distinct_keys()
        return Products(q / self.domain.scale_of(K), k, v, np.full(S, -1))


def _largest_product(products: Products) -> float:
    """Return a bound on |q_t . k_s|."""
    q, k = (np.sqrt((x * x).sum(-1)).max(initial=0.0) for x in (products.q, products.k))
    return float(q * k)


def draw_qkv(draw: Draw, domain: FusedDomain, gates: Gates, kind: str) -> QKV:
    """Draw a QKV recipe of this kind for these gates."""
    S = gates.shape[-1]
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
    if not 0 <= qkv.V <= LARGEST or qkv.K not in domain.key_sizes(S):
        return False
    if domain.contract.V_equals_K and qkv.V != 0:
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

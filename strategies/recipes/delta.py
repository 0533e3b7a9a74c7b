"""The inputs of a delta rule: keys that overlap, queries, values, beta, a state, and cotangents.

docs/fused.md section 5. In a *frame*, an orthogonal matrix whose entries are 0 or a power of two, keys are
one or two columns: every transition is then a signed permutation, a reflection or a projection, and nothing
rounds. Other keys are unit vectors that overlap much or little. Each head has its own generator, which draws
time by time: the first times of a longer sequence are those of a shorter one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dmat.strategies.choose import Draw, between, choose, seed
from dmat.strategies.promised import FusedPromised
from dmat.strategies.recipes.backgrounds import Array

FRAMES = ("frame", "pairs")  # keys of one column of a frame, or mostly of two
KEYS = ("dense", "equal", "near", "signs", "few", "one-hot", "correlated")
BETAS = ("uniform", "one", "tiny", "sigmoid", "zero")
BETAS_TO_TWO = ("two", "zero or two", "up to two")
BLOCKS = (1, 4, 16)
LIFT = 64.0  # the norm of a key that the kernel normalises: no eps up to 1e-5 changes 64^2 in float32
THINNED = (1.0, 0.4, 0.2)


@functools.cache
def hadamard(order: int) -> Array:
    """Return the Hadamard matrix of this order, a power of four, over its root: an orthogonal matrix."""
    H = np.ones((1, 1))
    while len(H) < order:
        H = np.block([[H, H], [H, -H]])
    return np.asarray(H / np.sqrt(order))


def unit(x: Array) -> Array:
    """Return the vectors of the last axis divided by their norms."""
    return np.asarray(x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-30))


def _signs(drawn: Array) -> Array:
    """Return -1 or 1 for numbers of [0, 1)."""
    return np.where(drawn < 0.5, -1.0, 1.0)


def _ternary(drawn: Array) -> Array:
    """Return -1, 0 or 1 for numbers of [0, 1)."""
    return np.floor(3 * drawn) - 1.0


def frame(random: np.random.Generator, K: int, block: int) -> Array:
    """Draw an orthogonal K x K matrix of diagonal blocks: Hadamard matrices, flipped and permuted."""
    Q = np.zeros((K, K))
    for start in range(0, K, block):
        flipped = hadamard(block) * _signs(random.random((block, 1)))
        Q[start : start + block, start : start + block] = flipped[:, random.permutation(block)]
    return Q


@dataclass(frozen=True)
class DeltaHead:
    """One head of the inputs of a delta rule. The fields are those of a QKV recipe (qkv.py).

    normalised: whether the kernel divides k and q by their norms. seed: None for the plainest inputs.
    """

    K: int
    V: int
    S: int
    keys: str
    beta: str
    block: int
    few: int
    thin: int
    normalised: bool
    seed: tuple[int, ...] | None

    def random(self, role: int) -> np.random.Generator:
        """Return the generator of one role, default_rng([role, *seed]). Each call makes it anew."""
        words = [role, *(self.seed or ())]
        small = max(words) < 2**32  # numpy takes four times as long to convert the list itself
        return np.random.default_rng(np.array(words, dtype=np.uint32) if small else words)

    @cached_property
    def normal(self) -> Array:
        """Normal numbers, a row a time: K for k, K for q, V for v, one for beta."""
        return self.random(1).standard_normal((self.S, 2 * self.K + self.V + 1))

    @cached_property
    def uniform(self) -> Array:
        """Uniform numbers, a row a time: for k, for beta, two for norms."""
        return self.random(2).random((self.S, 4))

    @property
    def exact(self) -> bool:
        """Whether the keys are those of a frame."""
        return self.keys in FRAMES

    @property
    def part(self) -> float:
        """The part of values, cotangents and entries of a state that is not 0."""
        return THINNED[self.thin]

    # Keys in a frame

    @cached_property
    def in_frame(self) -> tuple[Array, Array, Array]:
        """Return q, k, (S, K), and beta, (S,), of the exact regime."""
        if self.seed is None:
            return self._plain_frame()
        random = self.random(0)
        Q, columns = frame(random, self.K, self.block), random.permutation(self.K)[: max(1, self.few)]
        turned = self.normalised or random.random() < 0.5  # queries along the frame, or along channels
        drawn = random.random((self.S, 9 + self.K))  # a row a time
        signs, (kind, first, second, size, kept, length, own) = _signs(drawn[:, :2]), drawn[:, 2:9].T
        times, number = np.arange(self.S), len(columns)
        one = (first * number).astype(int)
        other = (one + 1 + (second * (number - 1)).astype(int)) % number
        two = (kind < 0.75) & (self.keys == "pairs") & (number > 1)
        k = np.zeros((self.S, self.K))
        k[times[two], columns[other[two]]] = signs[two, 1]
        k[times, columns[one]] = signs[:, 0]
        highest = np.where(two | (self.beta != "up to two"), 1.0, 2.0)
        beta = np.where(size < 0.25, 0.0, np.where(size < 0.75, 1.0, highest))
        beta = np.where((kept < 0.7) | (self.thin == 0), beta, 0.0)
        if self.normalised:
            q = np.zeros_like(k)
            q[times, columns[(length * number).astype(int)]] = _signs(own)
        else:
            few = np.argsort(drawn[:, 9:], -1).argsort(-1) < 1 + (3 * length).astype(int)[:, None]
            q = few * _signs(own)[:, None]
        lift = LIFT if self.normalised else 1.0
        return lift * (q @ Q.T if turned else q), lift * (k @ Q.T), beta

    def _plain_frame(self) -> tuple[Array, Array, Array]:
        k = np.zeros((self.S, self.K))
        k[:, 0] = LIFT if self.normalised else 1.0
        if self.keys == "pairs" and self.K > 1:
            k[:, 1] = 1.0
        q = np.zeros_like(k)
        q[:, 0] = k[:, 0]
        return q, k, np.ones(self.S)

    # Other keys

    @cached_property
    def unit_keys(self) -> Array:
        """Return keys of norm 1 that overlap as `keys` says, (S, K)."""
        if self.seed is None:
            return np.broadcast_to(np.eye(self.K)[0], (self.S, self.K))
        free = self.normal[:, : self.K]
        if self.keys == "dense":
            return unit(free)
        drawn = unit(self.random(3).standard_normal((4, self.K)))
        center, few = drawn[0], drawn[1:]
        chosen = self.uniform[:, 0]
        match self.keys:
            case "equal":
                return np.broadcast_to(center, free.shape)
            case "near":
                return unit(center + 1e-3 * free)
            case "signs":
                return np.asarray(center * np.where(chosen < 0.5, -1.0, 1.0)[:, None])
            case "few":
                return np.asarray(few[(3 * chosen).astype(int)])
            case "one-hot":
                return np.asarray(np.eye(self.K)[(self.K * chosen).astype(int)])
        return unit(unit(free) + center)  # correlated

    @cached_property
    def drawn_beta(self) -> Array:
        """Return beta as `beta` says, (S,)."""
        if self.seed is None:
            return np.ones(self.S)
        some = self.uniform[:, 1]
        match self.beta:
            case "one":
                return np.ones(self.S)
            case "two":
                return np.full(self.S, 2.0)
            case "tiny":
                return np.full(self.S, 1e-3)
            case "zero":
                return np.zeros(self.S)
            case "zero or two":
                return np.where(some < 0.5, 0.0, 2.0)
            case "up to two":
                return np.asarray(2 * some)
            case "sigmoid":
                return np.asarray(1 / (1 + np.exp(-self.normal[:, -1])))
        return some

    def beta_with(self, of_key: Array) -> Array:
        """Return beta of a further value head, (S,). of_key: that of the first value head with these keys.

        In a frame it is that one, or 0 at some times.
        """
        if self.seed is None:
            return of_key
        return of_key * (self.random(23).random(self.S) < 0.7) if self.exact else self.drawn_beta

    # What both kinds of keys give

    @cached_property
    def q_k_beta(self) -> tuple[Array, Array, Array]:
        """Return q, k, (S, K), and beta, (S,)."""
        if self.exact:
            return self.in_frame
        q = self.unit_keys if self.seed is None else unit(self.normal[:, self.K : 2 * self.K])
        if not self.normalised:
            return q, self.unit_keys, self.drawn_beta
        norms = 2.0 ** (np.floor(9 * self.uniform[:, 2:]) - 6)  # below 1 too: none may be floored there
        return q * norms[:, :1], self.unit_keys * norms[:, 1:], self.drawn_beta

    def values(self) -> Array:
        """Return v, (S, V): of the exact regime -1, 0 and 1, else normal."""
        if self.seed is None:
            return np.ones((self.S, self.V))
        return self.sparse(6, self.S, 0.7) if self.exact else self.normal[:, 2 * self.K : -1]

    def state(self) -> Array:
        """Return S_0, (K, V)."""
        if self.exact:
            return self.sparse(7, self.K, 0.5)
        return self.random(7).standard_normal((self.K, self.V))

    def sparse(self, role: int, rows: int, part: float) -> Array:
        """Draw -1, 0 and 1, (rows, V), of which about `part` times the thinned part is not 0."""
        drawn = self.random(role).random((rows, 2, self.V))
        return _ternary(drawn[:, 0]) * (drawn[:, 1] < part * self.part)

    def pulled(self) -> Array:
        """Return the cotangent of the output, (S, V). `seed` is that of the cotangent here."""
        if not self.exact:
            return self.random(8).integers(-2, 3, (self.S, self.V)).astype(np.float64)
        random = self.random(8)
        columns = random.random(self.V) < max(2 / self.V, self.part)
        drawn = random.random((self.S, 3, self.V))
        kept = (drawn[:, 1] < (0.4 if self.thin == 0 else 1.0)) & (drawn[:, 2, :1] < self.part)
        return _ternary(drawn[:, 0]) * kept * columns

    def pulled_state(self) -> Array:
        """Return the cotangent of the last state, (K, V). `seed` is that of the cotangent here."""
        return self.sparse(9, self.K, 0.3 if self.exact else 1.0)


# Which recipes a contract allows: fields of QKV by name


def exact_keys(contract: FusedPromised) -> tuple[str, ...]:
    """Return the keys of the exact regime: a kernel that normalises gets none of norm sqrt 2."""
    return FRAMES[:1] if contract.l2norm is not False else FRAMES


def frame_blocks(K: int) -> list[int]:
    """Return the orders of a frame's blocks for this K."""
    return [block for block in BLOCKS if K % block == 0]


def betas(contract: FusedPromised, kind: str) -> list[str]:
    """Return how beta may be drawn. In the exact regime: 0 and 1 ("uniform"), and 2 ("up to two")."""
    every = ("uniform", "up to two") if kind == "integers" else (*BETAS, *BETAS_TO_TWO)
    return [beta for beta in every if beta in BETAS or contract.beta_max == 2.0]


def states(contract: FusedPromised, kind: str) -> tuple[int, ...]:
    """Return whether a call may begin with a state: not where each source has one column of v."""
    return (0, 1) if kind != "one-hot" and contract.states is not None else (0,)


def draw_fields(draw: Draw, contract: FusedPromised, kind: str, K: int) -> dict[str, object]:
    """Draw the fields of a recipe of this kind."""
    exact = kind == "integers"
    fields: dict[str, object] = {
        "seed": 1 + seed(draw),
        "keys": choose(draw, exact_keys(contract) if exact else KEYS),
        "beta": choose(draw, betas(contract, kind)),
        "state": choose(draw, states(contract, kind)),
    }
    if not exact:
        return {**fields, "pull": choose(draw, (0, 1, 1, 1)) * (1 + seed(draw))}
    block, few, thin = choose(draw, frame_blocks(K)), between(draw, 2, 6), choose(draw, (0, 1, 2))
    return {**fields, "pull": 1 + seed(draw), "block": block, "few": few, "thin": thin}


def plain_fields(kind: str) -> dict[str, object]:
    """Return the fields of the simplest recipe of this kind."""
    if kind == "integers":
        return {"keys": "frame", "beta": "uniform", "few": 2}
    return {"keys": "equal", "beta": "one"}


def ladder_fields(contract: FusedPromised, kind: str, K: int, *, several: bool) -> list[dict[str, object]]:
    """Return the fields of the canonical recipes with a seed."""
    beta, state = betas(contract, kind)[-1], states(contract, kind)[-1]
    if kind == "integers":
        keys, blocks = exact_keys(contract)[-1], frame_blocks(K)
        ways = [(keys, 1, 1), (keys, blocks[-1], 2)] if several else [(keys, 1, 0), ("frame", 1, 2)]
        own: list[dict[str, object]] = [
            {"keys": key, "block": block, "few": 3, "beta": beta, "thin": thin} for key, block, thin in ways
        ]
    else:
        own = [{"keys": "dense", "beta": "up to two" if contract.beta_max == 2.0 else "uniform"}]
        own += [{"keys": "equal", "beta": "one"}] if several else []
    return [{"seed": 1 + n, "pull": 1 + n, "state": state, **fields} for n, fields in enumerate(own)]


def has_fields(contract: FusedPromised, fields: Mapping[str, Any]) -> bool:
    """Whether the contract of a delta rule allows these fields of a recipe."""
    kind, block, few, thin = (fields[name] for name in ("kind", "block", "few", "thin"))
    exact = kind == "integers"
    frame = block in frame_blocks(fields["K"]) and 1 <= few <= 6 if exact else (block, few) == (1, 0)
    keys = fields["keys"] in (exact_keys(contract) if exact else KEYS)
    sparse = 0 <= thin < len(THINNED) if exact else thin == 0
    return (
        frame
        and keys
        and sparse
        and fields["state"] in states(contract, kind)
        and fields["beta"] in betas(contract, kind)
    )

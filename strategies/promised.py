"""The fields of a contract that the strategies read, and how QKV recipes are scaled.

These are protocols, so that dmat.strategies imports nothing of dmat.testing. dmat/testing/contract/fields.py
says what each field means; dmat/testing/oracle/reads.py has the kinds of operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, match_args=False)  # read-only: contracts are frozen
class Promised(Protocol):
    """The fields that say which gates an implementation takes."""

    special_values: tuple[str, ...]
    zero_length: bool
    seq_multiple_of: int
    max_seq: int | None


@dataclass(frozen=True, match_args=False)
class FusedPromised(Promised, Protocol):
    """The fields that say how a fused kernel is called, and which inputs it takes."""

    gate: str
    igate: bool
    group: int
    group_order: str
    positive: bool
    K: int | tuple[int, ...] | None
    V: int | tuple[int, ...]
    V_equals_K: bool
    lengths: tuple[int, ...] | None
    min_seq: int
    i_range: tuple[float, float]
    l_min: float | None
    strided: bool
    beta_max: float
    l2norm: float | bool
    states: str | None
    packed: str | None
    chunk_states: int | None

    @property
    def from_preact(self) -> bool:
        """Whether a recipe of gates says pre-activations f, not log gates."""

    weight: str | None
    dt_softplus: bool
    dt_limit: tuple[float, float] | None

    @property
    def of_gates(self) -> tuple[str, ...]:
        """The parameters of its gates that it takes, of A_log, A and dt_bias."""

    @property
    def by_channel(self) -> bool:
        """Whether each channel of k has a gate of its own."""

    @property
    def chunk(self) -> int | None:
        """The chunk size that the contract states, or None."""

    def scale_of(self, K: int) -> float:
        """Return the factor of q.k for this K."""


@dataclass(frozen=True)
class Scaling:
    """How the QKV recipes of one kind of operator are scaled (docs/fused.md section 1).

    regimes: has "small" if the operator has a normaliser of at least 1; the recipe can make it exactly 1.
    near: the levels for every format; a repeated level is drawn more often. far: the levels if no format is
    float16. multiplies: whether a coefficient has the factor q.k; if not, one-hot recipes have q = k = 0.
    unsigned: whether q and k are at least 0.
    erases: whether a token erases what the state holds for its key: then keys overlap, and beta is drawn.
    """

    regimes: tuple[str, ...] = ("unit",)
    near: tuple[int, ...] = (0,)
    far: tuple[int, ...] = (0,)
    multiplies: bool = True
    unsigned: bool = False
    erases: bool = False

    @property
    def integers(self) -> str:
        """The regime in which integer inputs give integer outputs: a normaliser must be 1 there."""
        return self.regimes[-1]

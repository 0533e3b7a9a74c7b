"""What the strategies are told: of a contract's fields, and of how a kind of operator takes its probes.

dmat/testing/contract/fields.py says what each field means, dmat/testing/oracle/reads.py has the kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, match_args=False)  # read-only: contracts are frozen
class Promised(Protocol):
    """Which gates an implementation takes."""

    special_values: tuple[str, ...]
    zero_length: bool
    seq_multiple_of: int
    max_seq: int | None


@dataclass(frozen=True, match_args=False)
class FusedPromised(Promised, Protocol):
    """How a fused kernel is called, and on what."""

    gate: str
    igate: bool
    positive: bool
    K: int | tuple[int, ...]
    V: int | tuple[int, ...]
    V_equals_K: bool
    lengths: tuple[int, ...] | None
    min_seq: int
    i_range: tuple[float, float]
    l_min: float | None
    strided: bool

    @property
    def distinct_keys(self) -> bool:
        """Whether each source needs a key of its own, orthogonal to all others, so that K >= S."""

    @property
    def chunk(self) -> int | None:
        """The chunk size that it states, if it does."""

    def scale_of(self, K: int) -> float:
        """Return what q.k is multiplied by."""


@dataclass(frozen=True)
class Scaling:
    """How the probes of one kind of operator are scaled (docs/fused.md section 1).

    regimes: "small" where a normaliser that is at least 1 can be made 1. near: the levels that are drawn in
    every format, more often where repeated. far: those where no float16 is in the way. multiplies: whether a
    coefficient has q.k for a factor; if not, one-hot probes have q = k = 0.
    """

    regimes: tuple[str, ...] = ("unit",)
    near: tuple[int, ...] = (0,)
    far: tuple[int, ...] = (0,)
    multiplies: bool = True

    @property
    def integers(self) -> str:
        """The regime in which integers give integers: where there is a normaliser, it must be 1."""
        return self.regimes[-1]

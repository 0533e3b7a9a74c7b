"""What the strategies read of a contract; dmat/testing/contract/fields.py says what each field means."""

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

    reads: str
    gate: str
    igate: bool
    keys: str
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
    def chunk(self) -> int | None:
        """The chunk size that it states, if it does."""

    def scale_of(self, K: int) -> float:
        """Return what q.k is multiplied by."""

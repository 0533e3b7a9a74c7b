"""The inputs of one call of a fused kernel as exact numbers. The oracle reads no tensor after this."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.oracle.arithmetic import Array, Mask, holds


@dataclass(frozen=True)
class Seen:
    """The inputs of one call in float64, which holds each of their formats exactly.

    q, k: (B, NH, S, K). v: (B, NH, S, V). igate, fgate: (B, NH, S), zeros where the kernel takes none; fgate
    is l itself for gate="log" and "fixed". begins: where calls and packed sequences begin, 0 first. packed:
    whether nothing crosses those, or a state does.
    """

    q: Array
    k: Array
    v: Array
    igate: Array
    fgate: Array
    begins: tuple[int, ...] = (0,)
    packed: bool = False

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return int(self.fgate.shape[-1])

    @cached_property
    def begin(self) -> Array:
        """The begin of each time's call or packed sequence, (S,)."""
        starts = np.array(self.begins, dtype=np.int64)
        return np.asarray(starts[np.searchsorted(starts, np.arange(self.S), side="right") - 1])

    @cached_property
    def unread(self) -> Mask:
        """Sources that a row does not read: later ones, other sequences', those before a closed gate."""
        later = ~np.tri(self.S, dtype=bool)
        other = self.begin[:, None] != self.begin[None, :] if self.packed else np.zeros_like(later)
        return np.asarray(later | other | holds(self.fgate == -np.inf))

    @cached_property
    def crossing(self) -> Mask:
        """Entries that go through a state which is handed over, (S, S)."""
        other = self.begin[:, None] != self.begin[None, :]
        return np.asarray(other & np.tri(self.S, dtype=bool) & (not self.packed))

"""The exact values of the inputs of one call of a fused kernel. The oracle reads them instead of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.testing.oracle.arithmetic import Array, Mask, holds


@dataclass(frozen=True)
class CallInputs:
    """The inputs of one call in float64, which holds each of their formats exactly.

    q, k: (B, NH, S, K). v: (B, NH, S, V). igate, fgate: (B, NH, S). igate is zeros if the kernel takes none;
    fgate is l itself for gate="log" and "fixed". begins: the times at which calls and packed sequences begin,
    0 first. packed: True if `begins` separates packed sequences, False if a state is handed over there.
    beta: (B, NH, S), and state: S_0, (B, NH, K, V), of a delta rule; None elsewhere, and S_0 = 0.
    """

    q: Array
    k: Array
    v: Array
    igate: Array
    fgate: Array
    begins: tuple[int, ...] = (0,)
    packed: bool = False
    beta: Array | None = None
    state: Array | None = None

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return int(self.fgate.shape[-1])

    @cached_property
    def begin(self) -> Array:
        """The time at which the call or the sequence of each time begins, (S,)."""
        starts = np.array(self.begins, dtype=np.int64)
        return np.asarray(starts[np.searchsorted(starts, np.arange(self.S), side="right") - 1])

    @cached_property
    def unread(self) -> Mask:
        """The sources s that row t does not read: later, in another sequence, or before a gate of -inf."""
        later = ~np.tri(self.S, dtype=bool)
        other = self.begin[:, None] != self.begin[None, :] if self.packed else np.zeros_like(later)
        return np.asarray(later | other | holds(self.fgate == -np.inf))

    @cached_property
    def crossing(self) -> Mask:
        """The entries (t, s) that pass through a state handed over between calls, (S, S)."""
        other = self.begin[:, None] != self.begin[None, :]
        return np.asarray(other & np.tri(self.S, dtype=bool) & (not self.packed))

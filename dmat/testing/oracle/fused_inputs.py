"""The exact values of the inputs of one call of a fused kernel. The oracle reads them instead of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.strategies.recipes.heads import PLAIN_HEADS, HeadForm
from dmat.testing.oracle.arithmetic import Array, Mask, holds
from dmat.testing.oracle.gate_forms import GATE_FORMS

Turns = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class CallInputs:
    """The inputs of one call in float64, which holds each of their formats exactly.

    NH counts value heads: q and k are repeated for each that reads them. q, k: (B, NH, S, K). v:
    (B, NH, S, V). igate, fgate: (B, NH, S). igate is zeros if the kernel takes none; fgate is l itself for
    gate="log" and "fixed". heads: how these heads are made of the kernel's. If the gates of a sum differ by
    channel, each channel is a head of one channel here; of such a delta rule fgate is (B, NH, S, K).
    begins: the times at which calls and packed sequences begin, 0 first. packed: True if `begins` separates
    packed sequences, False if a state is handed over there. turns: of several packed calls in turn, the first
    and last time (exclusive) of each sequence in each call; a state is handed over from call to call, and the
    times of one sequence stand together.
    beta: (B, NH, S), and state: S_0, (B, NH, K, V), of a delta rule; None elsewhere, and S_0 = 0.
    gate: the form of fgate, a name of GATES. A_log (or A), dt_bias: its parameters, broadcast to fgate.
    D: the skip, (1, NH, 1, 1 or V), and z, in the shape of the output; None where the kernel takes none.
    """

    q: Array
    k: Array
    v: Array
    igate: Array
    fgate: Array
    begins: tuple[int, ...] = (0,)
    packed: bool = False
    turns: Turns = ()
    beta: Array | None = None
    state: Array | None = None
    heads: HeadForm = PLAIN_HEADS
    gate: str = "log"
    A_log: Array | float = 0.0
    dt_bias: Array | float = 0.0
    D: Array | None = None
    z: Array | None = None

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return int(self.fgate.shape[2])

    @property
    def K(self) -> int:
        """The number of products in q.k."""
        return int(self.q.shape[-1]) * self.heads.parts

    @property
    def by_channel(self) -> bool:
        """Whether each channel of k has a gate of its own."""
        return self.heads.channels is not None or self.fgate.ndim == 4

    def of_parameter(self, name: str, x: Array) -> Array:
        """Return x, a number a gate, summed over all gates that a parameter is in.

        A_log or A is in those of a head, (1, NH, 1); dt_bias too, or in those of a channel, (1, NH, K).
        """
        each = self.heads.joined(x)
        each = each if each.ndim == 4 else each[..., None]
        total = each.sum((0, 2))
        return np.asarray((total if name == "dt_bias" else total.sum(-1, keepdims=True))[None])

    @cached_property
    def begin(self) -> Array:
        """The time at which the call or the sequence of each time begins, (S,)."""
        starts = np.array(self.begins, dtype=np.int64)
        return np.asarray(starts[np.searchsorted(starts, np.arange(self.S), side="right") - 1])

    @cached_property
    def resets(self) -> tuple[int, ...]:
        """The times after 0 at which a packed sequence begins anew."""
        if not self.packed:
            return ()
        new = {start for start, _ in self.turns[0]} if self.turns else set(self.begins)
        return tuple(start for start in self.begins if start in new and start > 0)

    @cached_property
    def sequence(self) -> Array:
        """The number of the packed sequence of each time, (S,)."""
        return np.asarray(np.searchsorted(np.array(self.resets), np.arange(self.S), side="right"))

    @cached_property
    def places(self) -> tuple[Array, Array]:
        """The number of the call of each time, and its place in that call, (S,) each."""
        calls, places = np.zeros(self.S), np.arange(float(self.S))
        for number, spans in enumerate(self.turns):
            at = 0
            for start, end in spans:
                calls[start:end], places[start:end] = number, at + np.arange(end - start)
                at += end - start
        return calls, places

    @cached_property
    def unread(self) -> Mask:
        """The sources s that row t does not read: later, in another sequence, or before a gate of -inf."""
        later = ~np.tri(self.S, dtype=bool)
        other = self.sequence[:, None] != self.sequence[None, :]
        return np.asarray(later | other | holds(self.closed))

    @cached_property
    def closed(self) -> Mask:
        """The gates that are closed for good, in the shape of fgate: l = -inf."""
        return GATE_FORMS[self.gate].closed(self.fgate)

    @cached_property
    def crossing(self) -> Array:
        """How many states handed over between calls an entry (t, s) passes through, (S, S)."""
        number = np.searchsorted(np.array(self.begins), np.arange(self.S), side="right")
        passed = number[:, None] - number[None, :]
        return np.where(self.sequence[:, None] == self.sequence[None, :], np.maximum(passed, 0), 0)

"""Several calls of a fused kernel in turn: each begins with the state that the one before it returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor
from torch.utils._pytree import tree_leaves

from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.fused_inputs import CallInputs, Turns

STATE_LAYOUTS = ("transposed", "strided", "offset")  # of runtime.laid_out
Span = tuple[int, int]
Piece = tuple[Tensor, int, int]  # the times of a tensor from .. to .., on its axis 2


@dataclass(frozen=True)
class Turn:
    """One call: the times of all calls that it is made on, a span for each of its sequences.

    packed: whether the sequences are packed; else there is one.
    """

    spans: tuple[Span, ...]
    packed: bool

    @property
    def ends(self) -> list[int]:
        """The ends of the sequences, counted from the start of the call, 0 first."""
        return list(accumulate((end - start for start, end in self.spans), initial=0))


def turns_of(inputs: CallInputs) -> list[Turn]:
    """Return the calls that these inputs are given to in turn; one turn of all times for a single call."""
    if inputs.turns:
        return [Turn(spans, True) for spans in inputs.turns if any(start < end for start, end in spans)]
    begins = (0,) if inputs.packed else inputs.begins
    return [Turn((span,), False) for span in pairwise((*begins, inputs.S))]


def shown_turns(turns: Turns) -> str:
    """Return the times of each sequence in each call, as text: 0:2, 2:5 | 5:6."""
    calls = [", ".join(f"{start}:{end}" for start, end in spans) for spans in turns]
    return " | ".join(calls)


def in_order(turns: Sequence[Turn], outputs: Sequence[Tensor]) -> list[Piece]:
    """Return the pieces of the calls' outputs in the order of their times."""
    found = []
    for turn, output in zip(turns, outputs, strict=True):
        for (start, end), at in zip(turn.spans, turn.ends, strict=False):
            if start < end:
                found.append((start, (output, at, at + end - start)))
    return [piece for _, piece in sorted(found, key=lambda each: each[0])]


def tensors_of(state: object) -> list[Tensor]:
    """Return the floating-point tensors of a state."""
    return [x for x in tree_leaves(state) if isinstance(x, Tensor) and x.is_floating_point()]


def with_four_axes(x: Array) -> Array:
    """Return the numbers of a state as (B, NH, d, c), whatever axes it has."""
    *front, last = (x if x.ndim else x[None]).shape
    shape = [*front, 1, 1][:2]
    return x.reshape(*shape, -1, last) if len(front) > 1 else x.reshape(*shape, 1, last)

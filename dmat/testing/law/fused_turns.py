"""The states of a fused kernel's calls: several calls in turn, packed sequences, copies, and remarks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmat.strategies.recipes.qkv import QKV
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel import runtime
from dmat.testing.kernel.fused import Inputs
from dmat.testing.kernel.turns import Piece, Turn, in_order, tensors_of, turns_of
from dmat.testing.law.fused_inputs import FusedInputs
from dmat.testing.oracle.fused_inputs import CallInputs, Turns
from dmat.testing.verdict.finding import Finding, LawBroken

LEAST = 4
MANY = 64  # numbers of a state that are all bfloat16 by chance once in 2^(16 x 64) states
NARROW = "a state is returned in float32, but all its numbers are bfloat16: it was rounded on the way"


@dataclass
class FusedTurns(FusedInputs):
    """A fused kernel in a dtype on a device, whose calls hand states over."""

    @abstractmethod
    def _called(self, inputs: Inputs, more: dict[str, object]) -> tuple[Tensor, tuple[object, ...]]:
        """Call the kernel; return its output, and what it returned beside it."""

    def _ending(self, ends: Sequence[int]) -> dict[str, object]:
        """Return the keyword argument with the ends of packed sequences."""
        assert self.contract.packed
        return {self.contract.packed: torch.tensor(list(ends), dtype=torch.int64, device=self.device)}

    def _with_copy(self, more: dict[str, object]) -> dict[str, object]:
        """Return the keyword arguments with a copy of the state, if the call may write into its state."""
        name = self.contract.states
        if self.contract.updates is None or name is None or more.get(name) is None:
            return more
        copy = runtime.copied(more[name])
        self.recorder.copied(copy, more[name], "copied({})")
        return {**more, name: copy}

    def laid_out(self, state: object, layout: str) -> object:
        """Return a state with other strides, and NaN around it. layout: one of STATE_LAYOUTS."""
        moved = runtime.laid_out(state, layout)
        self.recorder.copied(moved, state, f"laid_out({{}}, {layout!r})")
        return moved

    def _require_dtype_of(self, state: object) -> None:
        """Raise LawBroken for a state of another dtype than the contract states."""
        wanted = self.contract.state_dtype
        found = {str(x.dtype).removeprefix("torch.") for x in tensors_of(state)}
        if wanted is not None and found - {wanted}:
            raise LawBroken(Finding("state", (), " and ".join(sorted(found)), wanted, what="shape"))

    def called_in_turn(
        self, inputs: Inputs, more: Mapping[str, object], call_inputs: CallInputs
    ) -> tuple[Tensor, list[object]]:
        """Call the kernel once for each call of `call_inputs`, each with the state of the one before it.

        Return the output at all times, and what each call returned beside its output.
        """
        turns = turns_of(call_inputs)
        if len(turns) == 1 and not turns[0].packed:
            output, rest = self._called(inputs, dict(more))
            return output, [*rest[:1]]
        outputs, states = list[Tensor](), list[object]()
        for turn in turns:
            name = str(self.contract.states)
            given = {name: states[-1]} if states else dict(more)
            if turn.packed:
                given = {name: None, **given, **self._ending(turn.ends)}
            output, rest = self._called(self._at(inputs, turn), given)
            outputs.append(output)
            states.append(self._next_state(rest))
        return self._joined(in_order(turns, outputs), "o"), states

    def _at(self, inputs: Inputs, turn: Turn) -> Inputs:
        """Return the inputs of one of several calls. Those of several packed sequences are contiguous."""
        spans = [span for span in turn.spans if span[0] < span[1]]
        timed = {name: x for name, x in inputs.named.items() if name not in ("s", *PARAMETERS)}
        parts = {
            name: self._joined([(x, *span) for span in spans], self.letters[name])
            for name, x in timed.items()
        }
        return inputs.with_(**parts, s=None if turn.spans[0][0] else inputs.s)

    def _joined(self, pieces: Sequence[Piece], name: str, *, whole: bool = True) -> Tensor:
        """Return pieces of tensors as one. name: its printed name. whole: in new memory, one piece too."""
        parts = [x[:, :, start:end] for x, start, end in pieces]
        result = torch.cat(parts, 2) if whole or len(parts) > 1 else parts[0]
        self.recorder.joined(result, pieces, name)
        return result

    def _next_state(self, rest: tuple[object, ...]) -> object:
        """Return the state that a call returned. Raises LawBroken if there is none."""
        if not rest:
            raise LawBroken(Finding("state", (), "no state beside o", "(o, state)", what="shape"))
        return rest[0]

    def write_nothing_at_first(self, inputs: Inputs, turns: Turns) -> None:
        """Set v to 0 in the first call of every third sequence, which so hands over zeros.

        An mLSTM sums k too: k is 0 there, but of delta rules, which may divide by its norm.
        """
        for start, end in turns[0][1::3] if not self.contract.positive else ():
            inputs.v[:, :, start:end] = 0.0
            if not self.contract.erases:
                inputs.k[:, :, start:end] = 0.0

    def remark_on_state(self, state: object, inputs: Inputs, qkv: QKV) -> None:
        """Note a float32 state of dense inputs, of 64 numbers or more, that all have the bits of bfloat16.

        Only of states whose last axes are K and V, for a cache of k or v holds their own numbers; and of four
        rows and columns or more, for a k that is a power of two hands the numbers of v on.
        """
        K, V = inputs.q.shape[-1], inputs.v.shape[-1]
        for x in tensors_of(state) if qkv.kind == "dense" and min(K, V) >= LEAST else ():
            if x.dtype == torch.float32 and x.ndim == 4 and sorted(x.shape[-2:]) == sorted((K, V)):
                given = x.detach()[x.detach() != 0]
                if given.numel() >= MANY and torch.equal(given, given.bfloat16().float()):
                    self.remarks.add(NARROW)

"""What the law of padding masks calls and expects: garbage in padded places, and real tokens alone.

A row of the batch is judged like packed sequences: the padded places before, the real tokens, and the padded
places behind. So the bound of real tokens knows the gates of padded places: cumulative sums may go over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.cases.padded import pads_of
from dmat.strategies.recipes.backgrounds import Constant, Normal, Within
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import FusedGradients, Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import Expected, LawBroken
from dmat.testing.verdict.require import require_within

GARBAGE, NARROW = 2.0**10, 2.0**4  # the largest number in padded places; of float16, whose products overflow
OPEN = 1024.0  # a pre-activation at which nothing decays


@dataclass(frozen=True)
class Padded:
    """A call with padded places. pads: (left, right) of each row. noise: the seed of the garbage."""

    subject: FusedSubject
    gates: Gates
    qkv: QKV
    pads: tuple[tuple[int, int], ...]
    noise: int

    @classmethod
    def of(cls, subject: FusedSubject, gates: Gates, qkv: QKV, cut: int, t: int, noise: int) -> Padded:
        """Return the call of a case."""
        B, _, S = gates.shape
        return cls(subject, gates, qkv, tuple(pads_of(B, S, cut, t)), noise)

    @property
    def S(self) -> int:
        """The length of the sequence."""
        return self.gates.shape[-1]

    @cached_property
    def mask(self) -> Tensor:
        """The mask, (B, S) of bool: True for real tokens."""
        t = torch.arange(self.S)
        rows = [(left <= t) & (t < self.S - right) for left, right in self.pads]
        return torch.stack(rows).to(self.subject.device)

    @property
    def more(self) -> dict[str, object]:
        """The keyword argument with the mask."""
        return {str(self.subject.contract.mask): self.mask}

    # Inputs

    @cached_property
    def clean(self) -> Inputs:
        """The inputs of the recipes, which begin with no state."""
        return self.subject.inputs(self.gates, self.qkv).with_(s=None)

    @cached_property
    def judged(self) -> Inputs:
        """The inputs that the oracle reads: other gates in padded places, where they may cost rounding."""
        return self._with({"i": self._garbage_gates[0], "g": self._garbage_gates[1]})

    @cached_property
    def given(self) -> Inputs:
        """The inputs of the call: garbage in padded places, NaN if gates may hold it and noise is even."""
        subject, clean = self.subject, self.judged
        random = np.random.default_rng(self.noise)
        most = NARROW if subject.dtype == "float16" else GARBAGE
        other = {}
        for name, x in clean.named.items():
            if name in ("i", "g", *PARAMETERS):
                continue
            values = subject.other_values(name, random, x)
            other[name] = torch.from_numpy(values if name == "b" else values * most / 2).to(x)
        if self.noise % 2 == 0 and "nan" in subject.contract.special_values:
            other = {n: torch.full_like(x, torch.nan) for n, x in clean.named.items() if n not in PARAMETERS}
        return self._with(other, clean)

    @cached_property
    def _garbage_gates(self) -> tuple[Tensor, Tensor]:
        domain, S = self.subject.domain, max(self.S, 1)
        most = min(GARBAGE, domain.largest_sum / (4 * S))
        fgate = Within(Normal(self.noise, most / 4), max(domain.least, -most), min(domain.most, most))
        igate = Within(Normal(self.noise + 1, 4.0), *domain.contract.i_range)
        taken = igate if domain.contract.igate else Constant(0.0)
        gates = Gates(self.gates.dtype, self.gates.shape, taken, fgate)
        return self.subject.gates_of(gates, self.qkv.K)

    def _with(self, other: dict[str, Tensor], clean: Inputs | None = None) -> Inputs:
        """Return inputs with other values in padded places. An input that is not taken stays None."""
        found = (self.clean if clean is None else clean).named
        real = self.mask[:, None, :, None]
        named = {n: torch.where(real, x, other[n].to(x)) for n, x in found.items() if n in other}
        return self.clean.with_(**(found | named))

    # The real tokens of a row

    def rows(self) -> Iterator[tuple[int, slice]]:
        """Yield each row with real tokens, and their times."""
        for b, (left, right) in enumerate(self.pads):
            if left < self.S - right:
                yield b, slice(left, self.S - right)

    def inputs_of(self, b: int, times: slice) -> CallInputs:
        """Return what the oracle reads of a row: the padded places are sequences of their own."""
        begins = tuple(dict.fromkeys((0, times.start, times.stop)))
        row = _row(self.judged, b)
        return self.subject.read_inputs(row, tuple(n for n in begins if n < self.S), packed=True)

    def note(self, b: int) -> str:
        """Return the note of findings in a row."""
        left, right = self.pads[b]
        keyword = self.subject.contract.mask
        padded = f"{left} places padded on the left and {right} on the right by {keyword}="
        return f"row {b} of the batch, {padded}; times count from its first real token"


def _row(inputs: Inputs, b: int) -> Inputs:
    named = {n: x if n in PARAMETERS else x[b : b + 1] for n, x in inputs.named.items()}
    return inputs.with_(**named)


def require_outputs(call: Padded, o: Tensor) -> None:
    """Require the output of real tokens to be within its bound."""
    for b, times in call.rows():
        expected = call.subject.expected_of(call.inputs_of(b, times))
        part = expected.part((slice(None), slice(None), times, slice(None)))
        call.subject.observe(
            require_within(call.subject.read(o[b : b + 1, :, times]), part.noted(call.note(b)))
        )


def require_gradients(call: Padded) -> None:
    """Require the gradients of real tokens to be within their bounds; no cotangent reaches padded places.

    Parameters of gates have no times and are not judged.
    """
    subject = call.subject
    W = subject.cotangent(call.clean, call.qkv)
    W = torch.where(call.mask[:, None, :, None], W, torch.zeros_like(W))
    whole = subject.read_inputs(call.judged)
    plain = replace(call.qkv, pull=0)  # no cotangent of a last state
    gradients = subject.pull_of(call.given, plain, W=W, call_inputs=whole, more=call.more)
    for b, times in call.rows():
        inputs = call.inputs_of(b, times)
        run = subject.run_from(inputs, {"o": gradients.run.output[b : b + 1]})
        pulled, bounds = subject.true_gradients(run, {"o": gradients.W[b : b + 1]})
        for name in subject.distinct_values(gradients.tensors):
            if name not in (*PARAMETERS, "s"):
                must = subject.gradient_of(pulled, name, bounds)
                _require_row(subject, gradients, name, must, (b, times), call.note(b))


def _require_row(
    subject: FusedSubject,
    gradients: FusedGradients,
    name: str,
    must: Expected,
    where: tuple[int, slice],
    note: str,
) -> None:
    b, times = where
    further = [slice(None)] * (len(must.kind.shape) - 3)
    part = must.part((slice(None), slice(None), times, *further)).noted(note)
    values = gradients.of(name)[b : b + 1]
    subject.observe(require_within(values[(slice(None), slice(None), times, *further)], part))


# The state that a padded call returns, read by a call that goes on from it


def knows_states(subject: FusedSubject) -> bool:
    """Whether tokens that write and decay nothing can be told: in a softmax or under fixed gates none are."""
    contract = subject.contract
    decaying = contract.gate == "fixed" and not contract.has_open_gates
    return contract.states is not None and not decaying and subject.reads.scaling.multiplies


def require_state(call: Padded) -> None:
    """Require a call that goes on from the state of a padded call to give what real tokens alone would.

    A kernel counts its chunks from the first place or from the first real token: one of two bounds holds.
    """
    subject = call.subject
    _, state = subject.call_with_state(call.given, None, **call.more)
    output, _ = subject.call_with_state(call.clean, state)
    for b, (left, right) in enumerate(call.pads):
        values = subject.read(output[b : b + 1])
        padded = call.note(b).partition(";")[0]
        note = f"of a call that goes on from the state of {padded}; t counts from its start"
        try:
            _require_going_on(subject, values, _nulled(call, b, right), call.S, state, note)
        except LawBroken:
            alone = _row(call.clean, b).part(left, max(call.S - right, left))
            both = [alone, _row(call.clean, b)]
            _require_going_on(subject, values, both, max(call.S - right - left, 0), state, note)


def _require_going_on(
    subject: FusedSubject, values: object, parts: Sequence[Inputs], cut: int, state: object, note: str
) -> None:
    """Require the output behind the cut of these inputs, one after another."""
    named = [part.named for part in parts]
    joined = {
        n: x if n in PARAMETERS else torch.cat([each[n] for each in named], 2) for n, x in named[0].items()
    }
    inputs = subject.read_inputs(parts[0].with_(**joined), (0, cut) if cut else (0,))
    expected = subject.expected_of(inputs, state=state)
    part = expected.part((slice(None), slice(None), slice(cut, None), slice(None)))
    subject.observe(require_within(np.asarray(values), part.noted(note)))


def _nulled(call: Padded, b: int, right: int) -> list[Inputs]:
    """Return a row whose padded places write nothing, and behind real tokens decay nothing; its tokens."""
    subject, row = call.subject, _row(call.judged, b)
    real = call.mask[b, None, :, None]
    named = {n: torch.where(real, x, torch.zeros_like(x)) for n, x in row.named.items() if n in "kv"}
    if row.b is not None:
        closed = -OPEN if subject.contract.beta_in == "logit" else 0.0
        named = {"b": torch.where(real, row.b, torch.full_like(row.b, closed)), "k": _row(call.clean, b).k}
    if row.g is not None and right:
        opened = min(OPEN, subject.domain.most) if subject.contract.from_preact else 0.0
        gates = replace(call.gates, igate=Constant(0.0), fgate=Constant(opened))
        last = torch.arange(call.S, device=real.device)[:, None] >= call.S - right
        named["g"] = torch.where(last, subject.gates_of(gates, call.qkv.K)[1][b : b + 1].to(row.g), row.g)
    return [row.with_(**named), _row(call.clean, b)]

"""A call with padded places: garbage in them, and what the oracle reads of each row.

A row of the batch is judged like packed sequences: the padded places before, the real tokens, and the padded
places behind. So the bound of real tokens knows the gates of padded places: cumulative sums may go over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.cases.padded import pads_of
from dmat.strategies.recipes.backgrounds import Constant, Normal, Within
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.fused_inputs import CallInputs

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
        fgate = Within(
            Normal(self.noise, most / 8, -most / 8), max(domain.least, -most), min(domain.most, most)
        )
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
        row = row_of(self.judged, b)
        return self.subject.read_inputs(row, tuple(n for n in begins if n < self.S), packed=True)

    def note(self, b: int) -> str:
        """Return the note of findings in a row."""
        left, right = self.pads[b]
        keyword = self.subject.contract.mask
        padded = f"{left} places padded on the left and {right} on the right by {keyword}="
        return f"row {b} of the batch, {padded}; b counts from that row, t from its first real token"


def row_of(inputs: Inputs, b: int) -> Inputs:
    """Return a row of the batch alone."""
    named = {n: x if n in PARAMETERS else x[b : b + 1] for n, x in inputs.named.items()}
    return inputs.with_(**named)

"""The domain of a D~ implementation in one dtype: the inputs that its contract allows, or fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from dmat.strategies.choose import Draw, between
from dmat.strategies.drawing import draw_exact_gates, draw_gates
from dmat.strategies.promised import Promised
from dmat.strategies.recipes.gates import Gates, exact_units
from dmat.strategies.regimes import DTILDE, GateFormat
from dmat.strategies.shapes import USUAL, draw_long_shape, draw_shape

LONG_IN = 50


@dataclass(frozen=True)
class Domain:
    """The inputs that may be drawn for one implementation in one dtype: those its contract allows, or fewer.

    longest: one case in LONG_IN has a length between USUAL and this one; 0: no such cases.
    memory: the bytes that the D~ of a huge case should fill; 0: no case fills the memory. slow: whether each
    head of a call takes a noticeable time, as in Triton's interpreter: then cases have few heads.
    """

    dtype: str = "float32"
    accumulator: str = "float32"
    special_values: tuple[str, ...] = ("-inf", "+inf", "nan")
    zero_length: bool = True
    seq_multiple_of: int = 1
    max_seq: int | None = None
    masked_cotangent: str = "ignored"
    longest: int = 0
    memory: int = 0
    slow: bool = False

    @classmethod
    def of(cls, contract: Promised, /, **more: Any) -> Self:
        """Return the domain of a contract. more: the fields of the domain that the contract does not have."""
        return cls(
            special_values=contract.special_values,
            zero_length=contract.zero_length,
            seq_multiple_of=contract.seq_multiple_of,
            max_seq=contract.max_seq,
            **more,
        )

    @property
    def gate_format(self) -> GateFormat:
        """The format of the gates: kind of kernel, dtype, special values."""
        return GateFormat(DTILDE, self.dtype, self.special_values)

    @property
    def has_exact_lengths(self) -> bool:
        """Whether some allowed length has exact sums in this dtype."""
        return exact_units(self.dtype, self.accumulator) // 2 >= self.seq_multiple_of

    def has_length(self, S: int) -> bool:
        """Whether the contract allows this length."""
        within = self.max_seq is None or S <= self.max_seq
        return within and S % self.seq_multiple_of == 0 and (S > 0 or self.zero_length)

    def draw_shape(self, draw: Draw, *, zero: bool = True) -> tuple[int, int, int]:
        """Draw (B, NH, S). zero: whether a length of 0 may be drawn."""
        longest = self.longest if self.max_seq is None else min(self.longest, self.max_seq)
        if longest > USUAL and between(draw, 1, LONG_IN) == LONG_IN:
            return draw_long_shape(draw, longest, self.seq_multiple_of)
        return draw_shape(draw, zero and self.zero_length, self.seq_multiple_of, self.max_seq, self.slow)

    def draw_gates(self, draw: Draw, *, zero: bool = True, expanded: bool = True) -> Gates:
        """Draw gates of any regime."""
        shape = self.draw_shape(draw, zero=zero)
        return draw_gates(draw, self.dtype, self.special_values, shape, expanded)

    def draw_exact_gates(self, draw: Draw) -> Gates:
        """Draw gates of the exact regime."""
        return draw_exact_gates(
            draw,
            self.dtype,
            self.accumulator,
            self.special_values,
            self.draw_shape(draw),
            self.seq_multiple_of,
        )

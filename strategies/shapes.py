"""Draw shapes (B, NH, S): short sequences first, then lengths near multiples of kernels' block sizes."""

from __future__ import annotations

from hypothesis import strategies as st

from dmat.strategies.choose import Draw, between, choose

BLOCKS = (16, 32, 64, 128, 8, 24, 96, 192, 256)
PAST = (1, 0, 2, 6, -1, 3)

# (B, NH), small first. B and NH differ beyond (1, 1), so that swapped axes are found.
TINY = ((1, 1), (1, 1), (1, 2), (2, 3), (3, 2), (4, 3), (3, 4), (2, 1), (2, 6), (1, 3))
FEW = ((1, 1), (1, 2), (2, 1), (2, 3), (3, 2))
ONE = ((1, 1), (1, 1), (1, 2))
USUAL = 262  # the longest sequence of most searches: a block of 256, and 6 more
LENGTHS = ("S = 0", "S = 1", "S = 2 .. 5", "S = 6 .. 24", "S = 25 .. 150", "S > 150")
_ENDS = (0, 1, 5, 24, 150)
EMPTY = ((1, 1, 0), (2, 3, 0), (0, 1, 3), (1, 0, 3), (0, 2, 1), (2, 0, 2), (0, 0, 0))


def length_class(S: int) -> str:
    """Return the class of a length, one of LENGTHS. Reports count the cases of each class."""
    return LENGTHS[sum(S > end for end in _ENDS)]


def draw_length(draw: Draw, seq_multiple_of: int = 1, max_seq: int | None = None) -> int:
    """Draw a length S >= 1 that the contract allows, short ones first. Return 0 if it allows none."""
    if max_seq is not None and max_seq < seq_multiple_of:
        return 0
    kind = choose(draw, ("short", "middle", "short", "edge", "middle", "edge", "long"))
    if seq_multiple_of > 1:
        S = seq_multiple_of * between(draw, 1, max(1, min(4, 512 // seq_multiple_of)))
    elif kind == "short":
        S = between(draw, 1, 5)
    elif kind == "middle":
        S = between(draw, 6, 24)
    elif kind == "edge":
        S = choose(draw, BLOCKS) + choose(draw, PAST)
    else:
        S = between(draw, 25, 150)
    return S if max_seq is None else min(S, max_seq - max_seq % seq_multiple_of)


def draw_long_shape(draw: Draw, longest: int, seq_multiple_of: int = 1) -> tuple[int, int, int]:
    """Draw (B, NH, S) with S from USUAL to `longest`. Every octave of S is equally likely."""
    least = -(-USUAL // seq_multiple_of)
    most = max(least, longest // seq_multiple_of)
    octave = between(draw, least.bit_length(), most.bit_length())
    low, high = max(least, 2 ** (octave - 1)), min(most, 2**octave - 1)
    return (*choose(draw, ONE), seq_multiple_of * between(draw, low, max(low, high)))


def draw_shape(
    draw: Draw,
    zero_length: bool = True,
    seq_multiple_of: int = 1,
    max_seq: int | None = None,
    slow: bool = False,
) -> tuple[int, int, int]:
    """Draw (B, NH, S). One case in thirty has an axis of length 0, if the contract allows it.

    slow: as in Domain.
    """
    if zero_length and seq_multiple_of == 1 and between(draw, 0, 29) == 29:
        return choose(draw, [shape for shape in EMPTY if max_seq is None or shape[2] <= max_seq])
    S = draw_length(draw, seq_multiple_of, max_seq)
    return (*choose(draw, heads_for(S, slow=slow)), S)


def heads_for(S: int, *, slow: bool) -> tuple[tuple[int, int], ...]:
    """Return the (B, NH) that are drawn for a length S: fewer for longer sequences. slow: as in Domain."""
    if slow:
        return FEW if S <= 24 else ONE
    return TINY if S <= 24 else FEW if S <= 70 else ONE


@st.composite
def shapes(
    draw: st.DrawFn,
    *,
    zero_length: bool = True,
    seq_multiple_of: int = 1,
    max_seq: int | None = None,
) -> tuple[int, int, int]:
    """Draw (B, NH, S) within a contract's zero_length, seq_multiple_of and max_seq."""
    return draw_shape(draw, zero_length, seq_multiple_of, max_seq)

"""Which heads an assertion judges: all that the caller names, or as many as seconds allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Head = tuple[int, int]
Heads = int | str | Sequence[Head] | None

WORK = 2**25  # entries of D~ that a call judges unless told otherwise: some 5 seconds
OF_A_HEAD = 2**10  # what a head costs beside, in entries of a row


def chosen(heads: Heads, B: int, NH: int, S: int, width: int = 1) -> list[Head]:
    """Return the heads (b, h) to judge. width: how many D~ a head has: of its value heads and channels.

    None: evenly spread, among them the first and the last, so many that they cost WORK. An int: so many,
    evenly spread. "all", or the heads themselves. Raises ValueError for other values.
    """
    every, wanted = (
        [(b, h) for b in range(B) for h in range(NH)],
        f'"all", a number, or heads (b < {B}, h < {NH})',
    )
    if heads is None:
        heads = max(1, WORK // max(1, S * (S + OF_A_HEAD) * width))
    if isinstance(heads, str):
        if heads != "all":
            raise ValueError(f"heads is {heads!r}; expected {wanted}")
        return every
    if isinstance(heads, int):
        if isinstance(heads, bool) or heads < 1:
            raise ValueError(f"heads is {heads}; expected {wanted}")
        spread = np.linspace(0, len(every) - 1, min(heads, len(every))).round().astype(int)
        return [every[n] for n in dict.fromkeys(spread.tolist())] if every else []
    if not isinstance(heads, Sequence) or not all(isinstance(head, tuple | list) for head in heads):
        raise ValueError(f"heads is {heads!r}; expected {wanted}")
    named: list[tuple[Any, ...]] = [tuple(head) for head in heads]
    unknown = next((head for head in named if head not in every), None)
    if unknown is not None or not named:
        raise ValueError(f"heads is {heads!r}; expected {wanted}")
    return [(int(b), int(h)) for b, h in named]

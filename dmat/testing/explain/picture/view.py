"""The content of a picture's row: arrays head by head, the heads shown, the named entry, the gates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmat.testing.explain.decays import read_out
from dmat.testing.explain.pattern import head_name, inner_axes, split_shape, worst_head
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.verdict.finding import Evidence, Example, Finding

MOST = 6  # at most this many heads are drawn


@dataclass(frozen=True)
class View:
    """An Example with its arrays head by head: (heads, T, S) for a matrix, (heads, 1, S) for a vector.

    axes: the names of the axes in one head. heads: the shape of the leading axes. shown: the flat numbers of
    the heads drawn. columns: the number of heads in a row of the panel. worst: the position of the finding's
    head in `shown`. entry: the finding's (t, s) in that head, or None. gates: igate and fgate, (heads, S), or
    None if the rows and columns are not the times of the gates.
    """

    example: Example
    axes: tuple[str, ...]
    heads: tuple[int, ...]
    shown: list[int]
    columns: int
    worst: int
    entry: tuple[int, int] | None
    computed: Array
    exact: Array
    ratio: Array
    judged: Mask
    gates: tuple[Array, Array] | None

    @property
    def matrix(self) -> bool:
        """Whether one head is a matrix."""
        return len(self.axes) == 2

    @property
    def times(self) -> bool:
        """Whether the rows and columns of one head are times t and s."""
        return self.axes == ("t", "s")

    @property
    def names(self) -> list[str]:
        """The names of the heads shown; [""] if the tensor has no heads."""
        if not self.heads:
            return [""]
        return [head_name(tuple(int(i) for i in np.unravel_index(n, self.heads))) for n in self.shown]

    @property
    def causal(self) -> Mask | None:
        """The causal entries (t, s), (S, S); None for other axes, or for a part of a matrix."""
        T, S = self.exact.shape[1:]
        return np.tri(S, dtype=bool) if self.times and T == S else None


def shown_heads(heads: tuple[int, ...], worst: int, most: int) -> list[int]:
    """Return the numbers of all heads; if these are more than `most`, of the worst and its neighbours."""
    number = int(np.prod(heads))
    if number <= most or len(heads) != 2:
        first = max(0, min(worst - most // 2, number - most))
        return list(range(first, min(number, first + most)))
    B, NH = heads
    b, h = divmod(worst, NH)
    rows = range(max(0, min(b, B - 2)), min(B, max(0, min(b, B - 2)) + 2))
    first = max(0, min(h - 1, NH - most // len(rows)))
    return [row * NH + n for row in rows for n in range(first, min(NH, first + most // len(rows)))]


def _columns(heads: tuple[int, ...], shown: list[int]) -> int:
    """Return the number of matrices in a row: NH for 2 or 3 heads, so that a row is a batch; else 3."""
    NH = heads[-1] if heads else 1
    wanted = NH if 1 < NH <= 3 else 3
    return max(1, min(wanted, len(shown)))


def gates_of(example: Example) -> tuple[Array, Array] | None:
    """Return igate and fgate of the case as built, (heads, S), or None if the case has no gates."""
    gates = example.case.get("gates")
    if gates is None:
        return None
    igate, fgate = gates.values()
    B, NH, S = gates.shape
    return igate.reshape(B * NH, S), fgate.reshape(B * NH, S)


def view_of(example: Example) -> View | None:
    """Return the view of an Example, or None if its finding has no entries."""
    example = replace(example, finding=read_out(example.finding))
    finding, evidence = example.finding, example.finding.evidence
    if evidence is None or evidence.wrong.size == 0 or evidence.wrong.ndim == 0:
        return None
    axes = inner_axes(finding)
    heads, inside = split_shape(evidence.wrong.shape, axes)
    matrix = len(axes) == 2
    shape = (-1, *inside) if matrix else (-1, 1, *inside)
    worst = worst_head(finding)
    shown = shown_heads(heads, worst, MOST) if heads else [0]

    def part(values: Any) -> Any:
        return np.asarray(values).reshape(shape)[shown]

    return View(
        example,
        axes,
        heads,
        shown,
        _columns(heads, shown),
        shown.index(worst),
        _entry(finding, heads, matrix),
        part(np.asarray(evidence.computed, dtype=np.float64)),
        part(np.asarray(evidence.exact, dtype=np.float64)),
        part(_ratio(evidence)),
        part(evidence.judged | evidence.wrong),
        None if matrix and axes != ("t", "s") else _gates_beside(example, heads, inside, shown),
    )


def _ratio(evidence: Evidence) -> Array:
    """Return error / allowed, and more than 1 for every wrong entry, whatever float64 rounds it to."""
    ratio = evidence.ratio
    return np.where(evidence.wrong, np.maximum(ratio, np.nextafter(1.0, 2.0)), ratio)


def _entry(finding: Finding, heads: tuple[int, ...], matrix: bool) -> tuple[int, int] | None:
    index = finding.index[len(heads) :]
    if matrix:
        return (index[0], index[1]) if len(index) == 2 else None
    return (0, index[0]) if index else None


def _gates_beside(
    example: Example, heads: tuple[int, ...], inside: tuple[int, ...], shown: list[int]
) -> tuple[Array, Array] | None:
    gates = gates_of(example)
    number = int(np.prod(heads))
    if gates is None or any(gate.shape != (number, n) for gate in gates for n in inside):
        return None
    return gates[0][shown], gates[1][shown]

"""One tensor of one head beside its bound: the finding, and the message of an assertion that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flint import arb

from dmat.testing.assertion.heads import Head
from dmat.testing.bounds.formats import Bound, Format
from dmat.testing.explain.message import units
from dmat.testing.explain.pattern import Entries, described
from dmat.testing.oracle.arithmetic import FINITE, FREE, Array, Mask, single
from dmat.testing.verdict.finding import Expected, Finding, LawBroken, axes_of
from dmat.testing.verdict.require import require_within

FITTED = 2**12  # up to this S a pattern is fitted to the wrong entries of D~; masks of (S, S) take memory


class OutOfBound(LawBroken):
    """A tensor is not within its bound. str() is the whole message; `finding` is its worst entry."""

    def __init__(self, finding: Finding, message: str) -> None:
        """Keep the finding and the message."""
        super().__init__(finding)
        self.args = (message,)


@dataclass(frozen=True)
class Judged:
    """One tensor of one head. worst: its largest error over its bound. finding: None where it holds.

    exact: the true value of its entry. wrong, judged: the entries of the head that are out of bound, and
    those that were judged; None where it holds.
    """

    quantity: str
    head: Head
    worst: float
    finding: Finding | None = None
    exact: float = np.nan
    wrong: Mask | None = None
    judged: Mask | None = None

    def lines(self, form: Format) -> list[str]:
        """Return the lines of the finding, in units of this format, and which entries are wrong."""
        if self.finding is None:
            return []
        lines = [*self.finding.lines(), *(f"  {line}" for line in units(form, self.finding, self.exact))]
        if self.wrong is None or self.judged is None:
            return lines
        axes = axes_of(self.quantity, self.wrong.ndim + 2)[2:] or ("t", "s")
        entries = Entries(self.wrong[None], self.judged[None], (), axes, 0)
        pattern = described(entries, fitted=self.wrong.shape[0] <= FITTED or self.wrong.ndim == 1)
        return [*lines, f"wrong in head b={self.head[0]}, h={self.head[1]}: {pattern}"]


def expected_within(quantity: str, value: Array, slack: Array, bound: Bound) -> Expected:
    """Return what is expected: the value in float64, with `slack` for its own error, and the bound.

    An entry is accused only where it is out of bound whatever the error of the value: its ball is the value
    with that radius.
    """

    def ball(index: tuple[int, ...]) -> arb:
        return arb(float(value[index]), float(slack[index]))

    kind = np.full(value.shape, FINITE, dtype=np.int8)
    return Expected(quantity, kind, single(value), slack, bound, ball)


def judge(computed: Array, expected: Expected, head: Head) -> Judged:
    """Judge a tensor of one head, (1, 1, ...): return its worst error over bound, and its worst entry."""
    name = expected.quantity
    with np.errstate(all="ignore"):
        try:
            return Judged(name, head, require_within(computed, expected))
        except LawBroken as broken:
            finding, evidence = broken.finding, broken.finding.evidence
    assert evidence is not None
    there = replace(finding, index=(*head, *finding.index[2:]), evidence=None)
    worst = np.inf if finding.what == "class" else float(evidence.ratio.max())
    wrong, exact = evidence.wrong[0, 0], float(evidence.exact[finding.index])
    return Judged(name, head, worst, there, exact, wrong, evidence.judged[0, 0] | wrong)


def judged_entries(expected: Expected) -> Mask:
    """Return the entries of which something is required."""
    return np.asarray(~(expected.bound.free | (expected.kind == FREE)))


def require_all(judged: Sequence[Judged], form: Format, promises: str, heads: str) -> None:
    """Raise OutOfBound if a tensor is out of bound. promises, heads: the last lines of the message."""
    broken = [each for each in judged if each.finding is not None]
    if not broken:
        return
    wrong = {each.quantity for each in broken}
    names = [name for name in dict.fromkeys(each.quantity for each in judged) if name in wrong]
    lines = [f"{', '.join(names)}: not within the bound of rounding"]
    for name in names:
        alike = [each for each in broken if each.quantity == name]
        worst = max(alike, key=lambda each: each.worst)
        lines += [f"  {line}" for line in worst.lines(form)]
        held = [each.head for each in judged if each.quantity == name and each.finding is None]
        if held:
            lines.append(
                f"  {len(alike)} of {len(alike) + len(held)} judged heads are wrong; right: {_listed(held)}"
            )
    first = max((each for each in broken if each.quantity == names[0]), key=lambda each: each.worst)
    assert first.finding is not None
    raise OutOfBound(first.finding, "\n".join([*lines, heads, promises]))


def _listed(heads: Sequence[Head]) -> str:
    few = ", ".join(f"(b={b}, h={h})" for b, h in heads[:4])
    return few + (", ..." if len(heads) > 4 else "")

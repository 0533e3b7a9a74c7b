"""Say what the wrong values of a finding are: the values of another place, a multiple of the exact ones.

Each sentence accounts for every wrong entry of every example: the computed value differs from the predicted
one by no more than the bound. It is given only if at least two wrong entries with different exact values
bear it out, for one entry may agree by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from dmat.testing.explain.pattern import head_name, inner_axes, split_shape, worst_head
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.verdict.finding import Evidence, Example, Finding

LEAST = 2  # wrong entries with different exact values
LEAST_OF_RATIO = 4  # of them, where the ratio itself is read from one
DIGITS = (2, 3, 4, 5, 6, 7)  # of a ratio that is read
CLEAR = 16  # a predicted value tells something if it is so many times the allowed error away from 0

FACTORS = {
    -1.0: "with the sign turned",
    2.0: "times 2",
    0.5: "times 1/2",
    math.log(2): "times ln 2: exp where 2 ** x is due, or the reverse",
    1 / math.log(2): "times log2(e): exp where 2 ** x is due, or the reverse",
}

# Returns the predicted values, and the wrong entries that they are claimed for; None: no prediction.
Predict = Callable[[Finding, Evidence], tuple[Array, Mask] | None]


def value_hints(examples: Sequence[Example], scales: Sequence[tuple[str, float]] = ()) -> Iterator[str]:
    """Yield the first sentence that accounts for every wrong entry, or none.

    scales: factors by their name, beside FACTORS: the kernel's scale.
    """
    shown = [example.finding for example in examples]
    if any(finding.evidence is None or not finding.evidence.allowed.any() for finding in shown):
        return  # bits were compared, or nothing: the exact value is then no value of the formula
    yield from _first(chain(_sentences(shown, scales), _limits(shown), _ratios(shown)))


def _sentences(shown: Sequence[Finding], scales: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield from (
        sentence
        for sentence, predict in (
            ("every wrong entry is 0.", _zero),
            *_of_heads(shown),
            ("it is the entry of the transposed place: [s, t] for [t, s].", _transposed),
            *_of_factors(scales),
        )
        if accounts(shown, predict)
    )


def _first(sentences: Iterator[str]) -> Iterator[str]:
    sentence = next(sentences, None)
    if sentence is not None:
        yield sentence


def accounts(findings: Sequence[Finding], predict: Predict) -> bool:
    """Return whether the computed values lie within the bound of the predicted ones where that is claimed."""
    values, told, zeros = set[float](), set[float](), True
    for finding in findings:
        made = None if finding.evidence is None else predict(finding, finding.evidence)
        if finding.evidence is None or made is None:
            return False
        evidence, (predicted, claimed) = finding.evidence, made
        with np.errstate(all="ignore"):
            near = np.abs(evidence.computed - predicted) <= evidence.allowed
        if not (near | (evidence.computed == predicted))[claimed].all():
            return False
        values |= set(evidence.exact[claimed].tolist())
        clear = claimed & (np.abs(predicted) > CLEAR * evidence.allowed)
        told |= set(predicted[clear].tolist())
        zeros &= not predicted[claimed].any()
    return len(values) >= LEAST and (len(told) >= LEAST or zeros)


def _of_heads(findings: Sequence[Finding]) -> Iterator[tuple[str, Predict]]:
    """Yield, for each other head, the sentence that the finding's head has the values of that head."""
    finding = findings[0]
    if finding.evidence is None:
        return
    heads, _ = split_shape(finding.evidence.wrong.shape, inner_axes(finding))
    own = worst_head(finding)
    for other in range(math.prod(heads) if len(heads) == 2 else 0):
        if other != own:
            one, two = (head_name(tuple(int(n) for n in np.unravel_index(x, heads))) for x in (own, other))
            yield f"the head {one} has the values of another head: those of {two}.", _head(own, other, heads)


def _head(own: int, other: int, heads: tuple[int, ...]) -> Predict:
    def predict(finding: Finding, evidence: Evidence) -> tuple[Array, Mask] | None:
        exact, wrong = evidence.exact, evidence.wrong
        if exact.shape[:2] != heads:
            return None
        flat = exact.reshape(math.prod(heads), *exact.shape[2:])
        predicted, claimed = flat.copy(), np.zeros(flat.shape, dtype=bool)
        predicted[own], claimed[own] = flat[other], wrong.reshape(flat.shape)[own]
        return predicted.reshape(exact.shape), claimed.reshape(exact.shape)

    return predict


def _transposed(finding: Finding, evidence: Evidence) -> tuple[Array, Mask] | None:
    shape = evidence.exact.shape
    square = finding.quantity in ("D~", "exp(D~)") and len(shape) == 4 and shape[-1] == shape[-2]
    return (evidence.exact.swapaxes(-1, -2), evidence.wrong) if square else None


def _of_factors(scales: Sequence[tuple[str, float]]) -> Iterator[tuple[str, Predict]]:
    named = [(f"times {name} = {x:.4g}: the scale, once too often or left out", x) for name, x in scales]
    for words, factor in (*named, *((words, x) for x, words in FACTORS.items())):
        if factor != 1.0:
            yield f"every wrong entry is the exact value {words}.", _times(factor)


def _times(factor: float) -> Predict:
    return lambda finding, evidence: (evidence.exact * factor, evidence.wrong)


def _limits(shown: Sequence[Finding]) -> Iterator[str]:
    """Yield the sentence that all wrong entries are one number, which separates wrong from right ones."""
    computed, exact = _values(shown, wrong=True)
    if len(np.unique(exact)) < LEAST_OF_RATIO or len(np.unique(computed)) > 1:
        return
    _, right = _values(shown, wrong=False)
    for side, turn in (("below", 1.0), ("above", -1.0)):
        if (turn * exact < turn * computed).all() and (turn * right >= turn * computed[0]).all():
            yield f"every wrong entry is {computed[0]:.9g}, and its exact value is {side} that: a limit."


def _ratios(shown: Sequence[Finding]) -> Iterator[str]:
    """Yield the sentence that all wrong entries are one multiple of their exact values, in few digits."""
    computed, exact = _values(shown, wrong=True)
    if len(np.unique(np.abs(exact[exact != 0]))) < LEAST_OF_RATIO:
        return
    most = np.argmax(np.abs(exact))
    for digits in DIGITS:
        ratio = float(f"{computed[most] / exact[most]:.{digits}g}")
        if ratio not in (0.0, 1.0) and accounts(shown, _times(ratio)):
            yield f"every wrong entry is the exact value times {ratio:.7g}."
            return


def _values(shown: Sequence[Finding], *, wrong: bool) -> tuple[Array, Array]:
    """Return the computed and exact values of the wrong entries, or of the right ones that are finite.

    None if a wrong entry is not finite.
    """
    parts = [finding.evidence for finding in shown if finding.evidence is not None]
    where = [part.wrong if wrong else part.judged & ~part.wrong for part in parts]
    computed = np.concatenate([part.computed[mask] for part, mask in zip(parts, where, strict=True)])
    exact = np.concatenate([part.exact[mask] for part, mask in zip(parts, where, strict=True)])
    finite = np.isfinite(computed) & np.isfinite(exact)
    if wrong and not finite.all():
        return computed[:0], exact[:0]
    return computed[finite], exact[finite]


def _zero(finding: Finding, evidence: Evidence) -> tuple[Array, Mask]:
    return np.where(evidence.computed == 0, 0.0, np.nan), evidence.wrong

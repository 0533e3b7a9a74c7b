"""Gather what can be said of a broken law beyond the finding.

Each sentence was tried on the kernel, or accounts for all wrong entries.
A sentence on the contract comes first, and stands alone: it says that the kernel may be right. The others say
which formula the kernel computes, what the wrong values are, what the entry reads, and what the case needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from dmat.testing.contract import FUSED
from dmat.testing.explain.decays import read_out
from dmat.testing.explain.hints_calls import call_hints
from dmat.testing.explain.hints_contract import contract_hint
from dmat.testing.explain.hints_dtilde import explanation, transposed
from dmat.testing.explain.hints_gates import gate_hints
from dmat.testing.explain.hints_kind import kind_hints
from dmat.testing.explain.hints_reads import read_hints
from dmat.testing.explain.hints_values import value_hints
from dmat.testing.explain.tries import NoAnswer, Tries
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import Example

MOST = 5  # sentences of one failure


def hints(tries: Tries, shown: Sequence[Example], found: Sequence[Example]) -> list[str]:
    """Return the sentences on a failure that is reproducible.

    shown: the smallest case, then perhaps a longer one. found: the case as it was found, if that is another.
    """
    examples = [*shown, *found]
    case, finding = examples[0].case, examples[0].finding
    with np.errstate(all="ignore"):
        for alone in (explanation(tries, shown, found), contract_hint(tries, examples)):
            lines = _answered(alone)
            if lines:
                return lines
        formulas = _answered(gate_hints(tries.subject, examples))
        decays = [Example(one.case, read_out(one.finding)) for one in examples]
        values = [] if formulas else _answered(value_hints(decays, _scales(tries.subject, examples)))
        alike = _of_one_K(decays)
        if not formulas and not values and alike:  # a factor by the scale is another one for another K
            values = _answered(value_hints(alike, _scales(tries.subject, alike)))
        swapped = transposed(tries.subject, examples)
        every = (
            kind_hints(tries, finding),
            formulas,
            values,
            swapped,
            read_hints(tries, case, finding),
            call_hints(tries, case, finding),
        )
        return [line for some in every for line in _answered(some)][:MOST]


def _answered(lines: Sequence[str] | Iterator[str]) -> list[str]:
    """Return the lines up to a try that had no answer."""
    made: list[str] = []
    with suppress(NoAnswer):
        for line in lines:
            made.append(line)  # those before the exception stay
    return made


def _of_one_K(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with the K of the first one; none without q and k."""
    sizes = [one.case["qkv"].K if "qkv" in one.case else None for one in examples]
    return [one for one, K in zip(examples, sizes, strict=True) if K is not None and K == sizes[0]]


def _scales(subject: Subject, examples: Sequence[Example]) -> list[tuple[str, float]]:
    """Return the scale of a fused kernel and its inverse, by name."""
    if subject.kind != FUSED or "qkv" not in examples[0].case:
        return []
    sizes = {example.case["qkv"].K for example in examples if "qkv" in example.case}
    if len(sizes) != 1:
        return []
    scale = subject.contract.scale_of(sizes.pop())  # type: ignore[union-attr]  # a FusedContract
    return [("scale", scale), ("1 / scale", 1 / scale)]

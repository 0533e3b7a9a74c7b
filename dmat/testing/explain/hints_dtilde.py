"""Explain errors of D~ kernels that authors often dispute: docs/spec.md section 7.

Each explanation is a hypothesis on how the kernel computes. It is given only if it accounts for every wrong
entry of every example: there, the predicted and the computed value differ by no more than the bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from dmat.strategies import Constant, Gates
from dmat.strategies.recipes.backgrounds import Normal, rounded
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound
from dmat.testing.contract import DTILDE
from dmat.testing.explain.hints_contract import admitted
from dmat.testing.explain.tries import NoAnswer, Tries
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import FINITE, Array, Pair
from dmat.testing.oracle.dtilde import Forward
from dmat.testing.oracle.gates import GateTerms, window_sums
from dmat.testing.verdict.finding import Evidence, Example, Finding, as_array

ABSOLUTE = (
    "1 - sigmoid(f) and log(1 + exp(-f)) keep an error relative to 1 and lose what is small beside it:",
    "logsigmoid(f) and sigmoid(-f) keep it.",
)
DECLARE = 'if that loss is meant, declare gates="absolute".'
THRESHOLD = (
    "it computes as softplus does in float64 beyond its threshold of 20: log sigmoid(f) = f for f < -20,",
    "which drops up to 2e-9, ten million times float64's rounding; logsigmoid(f) does not.",
)
HALF_LOGS = (
    "it computes as if log sigmoid(f) was rounded to {half} before it was summed: each gate then brings",
    "an error of its own, that a wide sum does not undo. Keep the logs in the accumulator's format.",
)
HALF_LOGS_OR_SUMS = (
    "it computes as if log sigmoid(f), or a sum of it, was rounded to {half} before i was added.",
    "Keep both in the accumulator's format.",
)
TRUNCATED = (
    "it lies between the exact value and 0, less than one unit of {dtype} away: the result was truncated",
    "as it was stored. The bound allows for rounding to the nearest, which is half of that.",
)

HALVES = ("bfloat16", "float16")
UNLIKE = 9  # gates of the call on which rounded logs are confirmed


def explanation(tries: Tries, examples: Sequence[Example], found: Sequence[Example] = ()) -> Iterator[str]:
    """Yield two lines on why this is an error, if it is of an often disputed kind; else no line.

    A disputed kind must account for every example. The contract that allows it is named if it held when
    tried. found: further failing cases, to try the contract on.
    """
    if tries.subject.kind != DTILDE:
        return
    subject = cast(DtildeSubject, tries.subject)
    lines = [_of_example(subject, example.case, example.finding) for example in examples]
    if any(one != lines[0] for one in lines):
        return
    if lines[0] != list(ABSOLUTE):
        halves = [half for half in HALVES if lines[0] == _of_half(half)]
        if halves and not _rounds_many_gates(tries, subject, examples[0].case, halves[0]):
            return
        either = [half for half in halves if all(_sums_are_rounded(example, half) for example in examples)]
        yield from [line.format(half=either[0]) for line in HALF_LOGS_OR_SUMS] if either else lines[0]
        return
    yield from ABSOLUTE
    tried = admitted(tries, [example.case for example in (*examples, *found)], {"gates": "absolute"})
    yield from (DECLARE, tried) if tried else ()


def _of_half(half: str) -> list[str]:
    """Return the lines on log gates that are rounded to a half type."""
    return [line.format(half=half) for line in HALF_LOGS]


def _rounds_many_gates(tries: Tries, subject: DtildeSubject, case: Case, half: str) -> bool:
    """Whether rounded log gates account for a call with unlike gates too. One gate may look so by chance.

    Each window has one gate. i nearly cancels it, so that its rounding shows in a half output.
    """
    gates = Gates(subject.dtype, (1, UNLIKE, 2), Constant(2.0), Normal(1, scale=2.0, mean=-2.0))
    varied = {**case, "gates": gates}
    try:
        finding = tries.finding(varied)
    except NoAnswer:
        return False
    return finding is not None and _of_example(subject, varied, finding) == _of_half(half)


def _of_example(subject: DtildeSubject, case: Case, finding: Finding) -> list[str]:
    """Return the lines on a disputed error that account for every wrong entry of one example."""
    evidence, gates = finding.evidence, case.get("gates")
    if evidence is None or gates is None or not np.isfinite(evidence.allowed[evidence.wrong]).all():
        return []
    if not np.isfinite(evidence.computed[evidence.wrong]).all() or not evidence.allowed.any():
        return []
    B, NH, S = gates.shape
    if finding.quantity == "D~" and evidence.computed.shape == (B, NH, S, S):
        return _of_dtilde(subject, gates, evidence)
    if finding.quantity == "df" and evidence.computed.shape == (B, NH, S) and "cotangent" in case:
        return _of_df(subject, case, evidence)
    return []


def _of_dtilde(subject: DtildeSubject, gates: Gates, evidence: Evidence) -> list[str]:
    igate, fgate = gates.values()
    truth = Forward.of(igate, fgate, wide=subject.wide)
    if not np.array_equal(truth.value.hi[evidence.wrong], evidence.exact[evidence.wrong]):
        return []  # the law changed the gates, or sliced the result
    absolute = forward_bound(truth, replace(subject.rounding, gates="absolute"))
    if subject.contract.gates == "relative" and _explained(evidence, evidence.exact, absolute.bound):
        return list(ABSOLUTE)
    if _truncated(evidence, subject):
        return [line.format(dtype=subject.dtype) for line in TRUNCATED]
    log = GateTerms.of(fgate, wide=False).log.hi
    if subject.dtype == "float64" and _explained(evidence, _sums(igate, np.where(fgate < -20, fgate, log))):
        return list(THRESHOLD)
    for half in HALVES:
        logs = as_array(rounded(log, getattr(torch, half)))
        if _explained(evidence, _sums(igate, logs)):
            return _of_half(half)
    return []


def _sums_are_rounded(example: Example, half: str) -> bool:
    """Return whether rounding the sums to a half type, in place of the logs, gives the wrong entries too."""
    evidence = cast(Evidence, example.finding.evidence)
    igate, fgate = example.case["gates"].values()
    sums = window_sums(GateTerms.of(fgate, wide=False).log, wide=False).hi
    narrow = as_array(rounded(sums, getattr(torch, half)))
    return _explained(evidence, np.asarray(narrow + np.where(np.isfinite(igate), igate, 0.0)[..., None, :]))


def _of_df(subject: DtildeSubject, case: Case, evidence: Evidence) -> list[str]:
    fgate = case["gates"].values()[1]
    truth = subject.backward_of(fgate, as_array(case["cotangent"].build(case["gates"])))
    absolute = fgate_gradient_bound(truth, replace(subject.rounding, gates="absolute"))
    same = np.array_equal(truth.df.hi[evidence.wrong], evidence.exact[evidence.wrong])
    relative = subject.contract.gates == "relative"
    return (
        list(ABSOLUTE) if same and relative and _explained(evidence, evidence.exact, absolute.bound) else []
    )


def _sums(igate: Array, log: Array) -> Array:
    """Return D~ of these log forget gates. Only entries at t >= s are meaningful."""
    sums = window_sums(Pair(log, np.zeros_like(log)), wide=False).hi
    return np.asarray(sums + np.where(np.isfinite(igate), igate, 0.0)[..., None, :])


def _explained(evidence: Evidence, predicted: Array, allowed: Array | None = None) -> bool:
    """Return whether every wrong entry lies within the bound of its predicted value."""
    wrong, bound = evidence.wrong, evidence.allowed if allowed is None else allowed
    return bool((np.abs(evidence.computed[wrong] - predicted[wrong]) <= bound[wrong]).all())


def _truncated(evidence: Evidence, subject: DtildeSubject) -> bool:
    """Return whether every wrong entry is nearer to 0 than its exact value, by less than one ulp."""
    if subject.dtype not in ("bfloat16", "float16"):
        return False
    computed, exact = (np.abs(x[evidence.wrong]) for x in (evidence.computed, evidence.exact))
    unit = np.spacing(computed) * 2.0**52 * 2 * subject.rounding.u  # the stored value's ulp in dtype
    return bool(((computed <= exact) & (exact - computed < unit)).all())


def transposed(subject: Subject, examples: Sequence[Example]) -> Iterator[str]:
    """Say that each wrong entry [t, s] has the exact value of [s, t], if at least two different values do."""
    values: set[float] = set()
    for example in examples:
        evidence, gates = example.finding.evidence, example.case.get("gates")
        if evidence is None or gates is None or subject.kind != DTILDE:
            return
        own = cast(DtildeSubject, subject)
        truth = Forward.of(*gates.values(), wide=own.wide)
        wrong = evidence.wrong
        if truth.value.hi.shape != evidence.computed.shape or (wrong & ~np.isfinite(evidence.computed)).any():
            return
        allowed = forward_bound(truth, own.rounding).bound
        value, bound, kind = (x.swapaxes(-1, -2)[wrong] for x in (truth.value.hi, allowed, truth.kind))
        if (kind != FINITE).any() or not (np.abs(evidence.computed[wrong] - value) <= bound).all():
            return
        values |= set(value.tolist())
    if len(values) >= 2:
        yield "it is the entry of the transposed place: [s, t] for [t, s]."

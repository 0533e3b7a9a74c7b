"""Explain errors of D~ kernels that authors often dispute: docs/spec.md section 7.

Each explanation is a hypothesis on how the kernel computes. It is given only if it accounts for every wrong
entry: there, the predicted and the computed value differ by no more than the bound.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from dmat.strategies import Gates
from dmat.strategies.recipes.backgrounds import rounded
from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.arithmetic import Array, Pair
from dmat.testing.oracle.dtilde import Forward
from dmat.testing.oracle.gates import GateTerms, window_sums
from dmat.testing.verdict.finding import Evidence, Finding, as_array

ABSOLUTE = (
    "1 - sigmoid(f) and log(1 + exp(-f)) keep an error relative to 1 and lose what is small beside it:",
    'logsigmoid(f) and sigmoid(-f) keep it. If that loss is meant, declare gates="absolute".',
)
THRESHOLD = (
    "it computes as softplus does in float64 beyond its threshold of 20: log sigmoid(f) = f for f < -20,",
    "which drops up to 2e-9, ten million times float64's rounding; logsigmoid(f) does not.",
)
HALF_LOGS = (
    "it computes as if log sigmoid(f) was rounded to {half} before it was summed: each gate then brings",
    "an error of its own, that a wide sum does not undo. Keep the logs in the accumulator's format.",
)
TRUNCATED = (
    "it lies between the exact value and 0, less than one unit of {dtype} away: the result was truncated",
    "as it was stored. The bound allows for rounding to the nearest, which is half of that.",
)


def explanation(subject: DtildeSubject, case: Case, finding: Finding) -> list[str]:
    """Return two lines on why this is an error, if it is of an often disputed kind; else no line."""
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
    for half in ("bfloat16", "float16"):
        logs = as_array(rounded(log, getattr(torch, half)))
        if _explained(evidence, _sums(igate, logs)):
            return [line.format(half=half) for line in HALF_LOGS]
    return []


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

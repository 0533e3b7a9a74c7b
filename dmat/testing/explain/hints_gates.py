"""Say that the kernel takes its gates for gates of another kind, or multiplies by another derivative.

A sentence stands for a formula for the log gate, or for its derivative. dmat computes the formula in float64.
The sentence is given only if the kernel's result agrees with it at every judged entry of every example, and
if it differs from the exact value by far at two wrong entries or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import numpy as np

from dmat.testing.contract import DTILDE
from dmat.testing.explain.hints_values import LEAST
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array, single
from dmat.testing.oracle.delta import DeltaTruth
from dmat.testing.oracle.dtilde import Forward
from dmat.testing.oracle.fused import Truth
from dmat.testing.oracle.gates import GateTerms, window_sums
from dmat.testing.verdict.finding import Evidence, Example

Formula = Callable[[Array], Array]
Predicted = tuple[Array, Array]  # values, and how far the kernel's rounding may go from them

ROUNDINGS = 64.0  # units of rounding allowed for each term of a formula
SHORTEST = 4  # in a shorter sequence, a formula for a sum and one for a gate look alike
APART = 16.0  # the formula and the exact value differ by so many times that

EPSILONS = tuple(10.0**-n for n in range(3, 13))
CLAMPS = (-1, -5, -8, -10, -16, -20, -30, -32, -40, -50, -60, -64, -80, -88, -100)


def log_sigmoid(f: Array) -> Array:
    """Return log sigmoid(f) in float64."""
    return GateTerms.of(f, wide=False).log.hi


def sigmoid(f: Array) -> Array:
    """Return sigmoid(f) in float64."""
    return np.exp(log_sigmoid(f))


def _with_epsilon(epsilon: float, log: Array) -> Array:
    return np.log(np.exp(log) + epsilon)


def _after_activation(of: Formula, f: Array) -> Array:
    return of(log_sigmoid(f))


# Of the log gate l. For gates f before their activation, l is log sigmoid(f).
OF_LOG: Mapping[str, Formula] = {
    "every forget gate as if it was fully open: the gates are not read": np.zeros_like,
    "2 ** l for exp(l)": lambda x: x * math.log(2),
    "l / ln 2 for l: a factor log2(e) too much": lambda x: x / math.log(2),
    "-l for l": np.negative,
    "1 - exp(l) for exp(l)": lambda x: np.log(-np.expm1(x)),
    **{f"log(exp(l) + {e:g}) for l: an epsilon in the log": partial(_with_epsilon, e) for e in EPSILONS},
    **{f"max(l, {c}) for l: a clamp": partial(np.maximum, c) for c in CLAMPS},
}
OF_PREACT: Mapping[str, Formula] = {
    "f for log sigmoid(f): gates of another kind": lambda f: f,
    "sigmoid(f) for log sigmoid(f): the log is left out": sigmoid,
    "sigmoid(-f) for sigmoid(f): the sign of the gate": lambda f: log_sigmoid(-f),
    **{words: partial(_after_activation, of) for words, of in OF_LOG.items()},
}
OF_LOG = {"log sigmoid(l) for l: gates of another kind": log_sigmoid, **OF_LOG}
SLOPES: Mapping[str, Formula] = {
    "the gradient lacks the gate's derivative sigmoid(-f)": np.ones_like,
    "the gradient has sigmoid(f) for the gate's derivative sigmoid(-f)": sigmoid,
}


def gate_hints(subject: Subject, examples: Sequence[Example]) -> Iterator[str]:
    """Yield the first sentence that accounts for every entry, or none."""
    lengths = [example.case["gates"].shape[-1] for example in examples if "gates" in example.case]
    if any(example.finding.evidence is None for example in examples) or max(lengths, default=0) < SHORTEST:
        return
    preact = subject.kind == DTILDE or getattr(subject.contract, "gate", "") == "preact"
    quantity = examples[0].finding.quantity
    if quantity in ("D~", "o"):
        taken = _first(OF_PREACT if preact else OF_LOG, lambda of: _agrees(subject, examples, of))
        if taken:
            yield f"the result is that of {taken}."
    elif quantity == "df" and preact:
        taken = _first(SLOPES, lambda of: _have_slope(subject, examples, of))
        if taken:
            yield f"{taken}."


def _first(formulas: Mapping[str, Formula], fits: Callable[[Formula], bool]) -> str:
    with np.errstate(all="ignore"):
        return next((words for words, of in formulas.items() if fits(of)), "")


# The log gate


def _agrees(subject: Subject, examples: Sequence[Example], of: Formula) -> bool:
    """Return whether the formula accounts for every judged entry, and tells itself from the exact value."""
    told: set[float] = set()
    for example in examples:
        evidence, predicted = example.finding.evidence, _predicted(subject, example, of)
        if evidence is None or predicted is None or not np.isfinite(evidence.computed[evidence.wrong]).all():
            return False
        value, tolerance = predicted
        tolerance = evidence.allowed + tolerance
        judged = evidence.judged & np.isfinite(evidence.exact)
        if not (np.abs(evidence.computed - value) <= tolerance)[judged | evidence.wrong].all():
            return False
        apart = evidence.wrong & (np.abs(value - evidence.exact) > APART * tolerance)
        told |= set(evidence.exact[apart].tolist())
    return len(told) >= LEAST


def _predicted(subject: Subject, example: Example, of: Formula) -> Predicted | None:
    """Return the formula's values; None unless the law judged one plain call of finite gates."""
    case, evidence = example.case, cast(Evidence, example.finding.evidence)
    gates = case.get("gates")
    if gates is None or not set(case) <= {"gates", "qkv", "cotangent"}:
        return None
    if not all(np.isfinite(gate).all() for gate in gates.values()):
        return None
    if subject.kind == DTILDE:
        igate, fgate = gates.values()
        return _of_dtilde(cast(DtildeSubject, subject), igate, fgate, evidence, of)
    return _of_output(cast(FusedSubject, subject), example, evidence, of)


def _of_dtilde(
    subject: DtildeSubject, igate: Array, fgate: Array, evidence: Evidence, of: Formula
) -> Predicted | None:
    exact = Forward.of(igate, fgate, wide=False).value.hi
    if exact.shape != evidence.exact.shape or not _same(exact, evidence):
        return None
    log = of(fgate)
    value = window_sums(single(log), wide=False).hi + igate[..., None, :]
    sizes = window_sums(single(np.abs(log) + 1), wide=False).hi + np.abs(igate)[..., None, :]
    return value, ROUNDINGS * subject.rounding.u * sizes


def _of_output(subject: FusedSubject, example: Example, evidence: Evidence, of: Formula) -> Predicted | None:
    if subject.contract.gate not in ("log", "preact") or "qkv" not in example.case:
        return None
    inputs = subject.read_inputs(subject.inputs(example.case["gates"], example.case["qkv"]))
    exact = subject.truth(inputs).o
    if exact.shape != evidence.exact.shape or not _same(exact, evidence):
        return None
    contract, given = (
        replace(subject.contract, gate="log"),
        replace(inputs, fgate=of(inputs.fgate), gate="log"),
    )
    if isinstance(subject, DeltaSubject):
        truth = DeltaTruth(contract, given)
        return truth.o, subject.bounds_under(truth, contract, subject.own_rounding).output().bound
    sums = Truth(contract, given)
    terms = 1 + inputs.S + np.abs(sums.windows) + np.abs(inputs.igate)[..., None, :]
    sizes = inputs.heads.total((sums.sizes * terms) @ np.abs(inputs.v) / np.abs(sums.normaliser))
    return sums.o, ROUNDINGS * max(subject.rounding.output.u, subject.rounding.accumulator.u) * sizes


def _same(exact: Array, evidence: Evidence) -> bool:
    """Return whether the law judged just this call: its exact values are those of the case."""
    judged = evidence.wrong & np.isfinite(evidence.exact)
    return bool(judged.any() and np.allclose(exact[judged], evidence.exact[judged], rtol=1e-9, atol=0))


# The gate's derivative


def _have_slope(subject: Subject, examples: Sequence[Example], of: Formula) -> bool:
    """Return whether the derivative accounts for every wrong entry, at two different gates or more."""
    values: set[float] = set()
    for example in examples:
        evidence, gates = cast(Evidence, example.finding.evidence), example.case.get("gates")
        if gates is None or not _has_slope(subject, example, of):
            return False
        values |= set(gates.values()[1][evidence.wrong].tolist())
    return len(values) >= LEAST


def _has_slope(subject: Subject, example: Example, of: Formula) -> bool:
    evidence, fgate = cast(Evidence, example.finding.evidence), example.case["gates"].values()[1]
    if (
        fgate.shape != evidence.exact.shape
        or not np.isfinite(fgate).all()
        or set(example.case) - {"gates", "qkv", "cotangent"}
    ):
        return False
    times = of(fgate) / sigmoid(-fgate)
    near = np.abs(evidence.computed - evidence.exact * times) <= evidence.allowed * np.maximum(1.0, times) * 4
    apart = np.abs(times - 1) > 0.01
    wrong = evidence.wrong
    return bool(near[wrong].all() and apart[wrong].any())

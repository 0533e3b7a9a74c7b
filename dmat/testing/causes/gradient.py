"""Whether a gradient has a bug of its own, or is that of a wrong output: difference quotients tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.qkv import QKV, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.testing.causes.failure import Failure
from dmat.testing.causes.mildest import generic_variants
from dmat.testing.causes.trial import broken
from dmat.testing.causes.wrong import is_structural
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.kernel.fused import NOTHING, Inputs, as_judged
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding

STEP = 0.5  # of a gate: the quotient is within 0.02 of the derivative of log sigmoid
FUSED_STEP = 2.0**-9  # of all entries of an input: outputs of float32 move by more than they are rounded
OF_ONE_CALL = (
    *("input_gradient", "forget_gradient", "gradient_exact", "product_gradients"),
    *("beta_gradient", "state_gradient", "parameter_gradients"),
)
OFF = 2.0**-6  # relative: no rounding of a float32 kernel, of its operands to TF32 either, is so far off
FAR = 0.25  # no rounding of outputs, not to bfloat16 either, moves a quotient by this part of the larger one


def gradient_alone(failure: Failure, subject: Subject) -> bool:
    """Whether a gradient is wrong in calls with ordinary gates by a bug of its own.

    Their outputs are right, or the gradient is far from that of the wrong output. An entry of D~ above the
    diagonal does not count: no gradient depends on it.
    """
    if "gates" not in failure.case or not getattr(subject.contract, "igate", True):
        return (
            False  # beta of 1, a state of 0: with such inputs a wrong output is right, and its gradient wrong
        )
    cases = [{**case, **_without_masked(case)} for case in generic_variants(subject, failure.case)]
    wrong = [(case, error) for case in cases if (error := broken(failure.law, subject, case)) is not None]
    return bool(wrong) and all(
        _output_is_right(case, subject) or _is_of_another_output(case, error.finding, subject)
        for case, error in wrong
    )


def is_of_own_output(failure: Failure, subject: Subject) -> bool:
    """Whether a wrong gradient of a fused kernel is the derivative of the kernel's own output.

    Then the output is wrong near the inputs of the case, though it may be right there: with beta of 1, or a
    state of 0. Of a case of one call in float32 or float64 alone.
    """
    finding, case = failure.finding, failure.case
    fine = subject.dtype in ("float32", "float64") and finding is not None and finding.what == "value"
    if finding is None or not fine or subject.kind != FUSED or failure.law.name not in OF_ONE_CALL:
        return False
    try:
        computed, exact, quotient = _along(cast(FusedSubject, subject), case, finding)
    except Exception:  # a kernel may refuse the moved inputs, and a finding may be of a part of the gradient
        return False
    off = abs(computed - exact)
    if not is_structural(failure) and off <= OFF * max(abs(computed), abs(exact)):
        return False
    return abs(quotient - computed) <= FAR * off


def _along(subject: FusedSubject, case: Case, finding: Finding) -> tuple[float, float, float]:
    """Return the computed and the exact derivative along one direction, and the outputs' difference quotient.

    It has a random sign for each judged entry of the gradient: a second bug in other entries shows.
    """
    silent, evidence = subject.unrecorded(), finding.evidence
    inputs: Inputs = silent.build(case)
    name = next(one for one in inputs.named if silent.gradient_name(one) == finding.quantity)
    assert evidence is not None
    x = inputs.named[name]
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], tuple(x.shape)))
    where = evidence.judged | evidence.wrong
    direction = np.where(where, _as_judged(name, signs, silent), 0.0).ravel()
    computed, exact = (
        np.where(where, part, 0.0).ravel() @ direction for part in (evidence.computed, evidence.exact)
    )
    if name == "s":
        where = np.asarray(_as_judged(name, torch.from_numpy(where), silent), dtype=np.bool_)
    moved = torch.from_numpy(np.where(where.reshape(tuple(x.shape)), signs, 0.0)).to(x.device)
    products = []
    for step in (FUSED_STEP, -FUSED_STEP):
        other = (x.detach().double() + step * moved).to(x.dtype)
        outputs = silent.outputs_of(inputs.with_(**{name: other}), NOTHING, silent.read_inputs(inputs))
        if not silent.contract.state_gradients:
            outputs = {"o": outputs["o"]}
        given = silent.cotangents_of(outputs, inputs, case["qkv"], None)
        products.append(
            sum(float((y.detach().double() * given[n].double()).sum()) for n, y in outputs.items())
        )
    return float(computed), float(exact), (products[0] - products[1]) / (2 * FUSED_STEP)


def _as_judged(name: str, x: torch.Tensor, subject: FusedSubject) -> Array:
    """Return a tensor of an input's shape in the shape in which its gradient is judged."""
    form = getattr(subject, "state_form", None)
    layout = "BHKV" if form is None else form.layout
    return as_judged(name, x.numpy(), layout, by_channel=subject.contract.by_channel)


def _without_masked(case: Case) -> Case:
    return {"cotangent": replace(case["cotangent"], masked=0.0)} if "cotangent" in case else {}


def _dense(case: Case, subject: Subject) -> QKV:
    """Return dense q, k and v: an entry of exp(D~) that is read alone may be 0, so that nothing shows."""
    return plain_qkv(cast(FusedDomain, subject.domain), case["gates"].shape[-1], "dense", seed=1)


def _output_is_right(case: Case, subject: Subject) -> bool:
    """Whether the output of a call is right; of D~ on and below the diagonal."""
    calls = list(_output_calls(case, subject))
    found = [error for law, call in calls if (error := broken(law, subject, call)) is not None]
    if not found or not calls:
        return bool(calls)
    evidence = found[0].finding.evidence
    if subject.kind != DTILDE or evidence is None or evidence.wrong.ndim != 4:
        return False
    return not bool(np.tril(evidence.wrong).any())


def _is_of_another_output(case: Case, finding: Finding, subject: Subject) -> bool:
    """Whether a gradient of D~ is far from the difference quotient of the kernel's own output.

    That of a fused kernel may be: a right backward reads what a wrong forward saved.
    """
    number = ("di", "df").index(finding.quantity) if finding.quantity in ("di", "df") else -1
    fine = subject.dtype in ("float32", "float64") and math.isfinite(float(finding.computed))
    if subject.kind != DTILDE or number < 0 or not fine or "cotangent" not in case:
        return False
    G = case["cotangent"].build(case["gates"], subject.device).double().tril()
    outputs = []
    for step in (STEP, -STEP):
        inputs = [x.clone() for x in case["gates"].build(subject.device)]
        inputs[number][(*finding.index, 0)] += step
        try:
            outputs.append(subject.implementation.function(*inputs).detach().double().tril())  # type: ignore[attr-defined]
        except Exception:
            return False
    moved = torch.where(outputs[0] == outputs[1], 0.0, outputs[0] - outputs[1])  # two of -inf do not differ
    quotient = float((G * moved).sum()) / (2 * STEP)
    computed = float(finding.computed)
    return abs(quotient - computed) > FAR * max(abs(quotient), abs(computed))


def _output_calls(case: Case, subject: Subject) -> Iterator[tuple[Law, Case]]:
    """Yield the laws of the output, each with the call."""
    every = [("values", case)]
    if subject.kind != DTILDE and "qkv" in case:
        every += [("dense", case), ("dense", {**case, "qkv": _dense(case, subject)})]
    for name, one in every:
        law = law_named(name, subject.kind)
        if set(law.parameters) <= set(one) and law.why_not(subject, call := law.arguments(one)) is None:
            yield law, call

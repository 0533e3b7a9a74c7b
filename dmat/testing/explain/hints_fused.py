"""Suggest contract fields under which a fused kernel's result would be right: likely misunderstandings.

Each suggestion is a hypothesis. It is given only if it accounts for every entry of the smallest case, and of
the lengthened case if that breaks the law, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmat.strategies.recipes.recipe import Case
from dmat.testing.bounds.formats import FusedRounding
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FusedContract
from dmat.testing.contract.fields import HALVES
from dmat.testing.contract.written import SCOPES, fields_written
from dmat.testing.kernel.fused import NAMES
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.verdict.finding import Evidence, Example, Expected, as_array

# OTHER_READINGS: the kernel computes another formula. LESS_CARE: the right formula, with larger errors.
OTHER_READINGS: tuple[dict[str, Any], ...] = (
    {"scale": "K**-0.5"},
    {"scale": 1.0},
    {"scale": "K**-1"},
    {"gate": "preact"},
    {"gate": "log"},
    {"weight": "dt"},
    {"weight": None},
    {"reads": "mlstm"},
    {"reads": "linear"},
    {"gradient": "truncated"},
)
LESS_CARE: tuple[dict[str, Any], ...] = (
    {"gates": "absolute"},
    {"grad_scope": "suffix"},
    {"grad_scope": "prefix"},
    *({"error_scope": scope} for scope in SCOPES if scope != "window"),
    {"multiplies_in": HALVES},
    {"accumulates_in": HALVES},
    {"error_scope": "prefix", "multiplies_in": HALVES},
    {"error_scope": "prefix", "accumulates_in": HALVES},
)


@dataclass(frozen=True)
class _Shown:
    """The tensor of a finding: its case, its evidence, and its expected value under the stated contract."""

    case: Case
    quantity: str
    evidence: Evidence
    own: Expected


def explanation(subject: FusedSubject, examples: Sequence[Example]) -> list[str]:
    """Return one or two lines that suggest other contract fields, if these account for all entries."""
    shown = [_gradients_shown(subject, example) for example in examples]
    known = [one for one in shown if one is not None]
    return _hint(subject, known) if len(known) == len(examples) else []


def _gradients_shown(subject: FusedSubject, example: Example) -> _Shown | None:
    """Return the tensor of an example's finding, or None if the law judged more than one plain call."""
    quantity, evidence = example.finding.quantity, example.finding.evidence
    if evidence is None or set(example.case) != {"gates", "qkv"}:
        return None
    own = _expected(subject, subject.contract, example.case, quantity)
    if own is None or own.value.hi.shape != evidence.exact.shape:
        return None
    same = np.array_equal(own.value.hi[evidence.wrong], evidence.exact[evidence.wrong])
    return _Shown(example.case, quantity, evidence, own) if same else None


def _hint(subject: FusedSubject, examples: Sequence[_Shown]) -> list[str]:
    for fields in OTHER_READINGS if _tells(examples[0].evidence) else ():
        if "gradient" in fields and not subject.reads.truncates:
            continue
        if _accounts(subject, examples, fields, differ=True):
            own = {name: getattr(subject.contract, name) for name in fields}
            words, stated = fields_written(fields), fields_written(own)
            return [f"it is what {words} gives, and the contract says {stated}: is that meant?"]
    for fields in LESS_CARE:
        if _accounts(subject, examples, fields):
            wider = " or a wider one" if isinstance(fields.get("error_scope"), int) else ""
            words = f"it is within what {fields_written(fields)}{wider} allows:"
            return [words, "if it is meant to compute so, the contract must say it (see dmat grade)."]
    return []


def _tells(evidence: Evidence) -> bool:
    """Return whether the wrong values can discriminate.

    Zeros fit many contracts. A comparison of bits (allowed error 0) fits none.
    """
    return bool(evidence.allowed.any() and evidence.computed[evidence.wrong].any())


def _accounts(
    subject: FusedSubject, examples: Sequence[_Shown], fields: dict[str, Any], *, differ: bool = False
) -> bool:
    """Return whether the contract with these fields allows all computed values.

    differ: some wrong entry's exact value must also differ from the stated contract's by more than the bound.
    """
    try:
        contract = replace(subject.contract, **fields)
    except ValueError:  # the fields contradict other fields of the contract
        return False
    if contract == subject.contract or ("gates" in fields and contract.gate != "preact"):
        return False
    return all(_allows(subject, contract, example, differ) for example in examples)


def _allows(subject: FusedSubject, contract: FusedContract, example: _Shown, differ: bool) -> bool:
    """Return whether a contract allows every entry of the tensor."""
    own, wrong = example.own, example.evidence.wrong
    other = _expected(subject, contract, example.case, example.quantity)
    assert other is not None  # `quantity` is a result of a call under any contract
    apart = np.abs(own.value.hi - other.value.hi)[wrong]
    if differ and not (apart > own.bound.bound[wrong]).any():
        return False
    return _within(example.evidence, other)


def _within(evidence: Evidence, expected: Expected) -> bool:
    judged = evidence.judged & ~expected.bound.free
    computed = evidence.computed[judged]
    if not np.isfinite(computed).all() or not judged[evidence.wrong].all():
        return False
    error = np.abs(computed - expected.value.hi[judged])
    return bool((error <= expected.bound.bound[judged] + expected.slack[judged]).all())


def _expected(subject: FusedSubject, contract: FusedContract, case: Case, quantity: str) -> Expected | None:
    """Return the expected value of a quantity under a contract; None if it is no result of a call."""
    inputs = subject.inputs(case["gates"], case["qkv"])
    rounding = FusedRounding.of(contract, subject.dtype)
    truth = Truth(contract, subject.read_inputs(inputs))
    if quantity == "o":
        return subject.output_of(truth, contract, rounding)
    names = {subject.gradient_name(name): name for name in NAMES}
    if quantity not in names:
        return None
    pulled = Pulled(truth, as_array(subject.cotangent(inputs, case["qkv"])))
    return subject.gradient_of(pulled, names[quantity], FusedBounds(truth, contract, rounding))

"""What a contract would have to say for a fused kernel's result to be right: the likeliest misunderstanding.

Each is a hypothesis, and is told only where it accounts for every entry: of the smallest case, and of the
same case made longer, where that breaks the law too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dmat.strategies.recipe import Case
from dmat.testing.look import Look
from dmat.testing.promises import fields_written
from dmat.testing.readout.bounds import FusedBounds, FusedRounding
from dmat.testing.readout.contract import FusedContract
from dmat.testing.readout.grade import SCOPES
from dmat.testing.readout.promises import HALVES
from dmat.testing.readout.subject import NAMES, FusedSubject
from dmat.testing.readout.truth import Pulled, Truth
from dmat.testing.verdict import Evidence, Expected, Finding, as_array

# What is computed in another way than was stated; what is computed as stated, but with less care.
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
    *({"error_scope": scope} for scope in SCOPES if scope != "window"),
    {"multiplies_in": HALVES},
    {"accumulates_in": HALVES},
    {"error_scope": "prefix", "multiplies_in": HALVES},
    {"error_scope": "prefix", "accumulates_in": HALVES},
)


def explanation(subject: FusedSubject, looks: Sequence[Look]) -> list[str]:
    """Return a line or two on what else the contract could have said, where that accounts for all."""
    for fields in OTHER_READINGS if _tells(looks) else ():
        if "gradient" in fields and subject.fused.reads != "mlstm":
            continue
        if _accounts(subject, looks, fields, differ=True):
            own = {name: getattr(subject.fused, name) for name in fields}
            told, stated = fields_written(fields), fields_written(own)
            return [f"it is what {told} gives, and the contract says {stated}: is that meant?"]
    for fields in LESS_CARE:
        if _accounts(subject, looks, fields):
            wider = " or a wider one" if isinstance(fields.get("error_scope"), int) else ""
            told = f"it is within what {fields_written(fields)}{wider} allows:"
            return [told, "if it is meant to compute so, the contract must say it (see dmat grade)."]
    return []


def _tells(looks: Sequence[Look]) -> bool:
    """Whether what was computed wrongly could tell readings apart: zeros are of many, and bits of none."""
    evidence = looks[0].finding.evidence
    return evidence is not None and bool(evidence.allowed.any() and evidence.computed[evidence.wrong].any())


def _accounts(
    subject: FusedSubject, looks: Sequence[Look], fields: dict[str, Any], *, differ: bool = False
) -> bool:
    """Whether the contract with these fields allows all that was seen; differ: and says something else."""
    try:
        contract = replace(subject.fused, **fields)
    except ValueError:  # they do not go together with the others
        return False
    if contract == subject.fused or ("gates" in fields and contract.gate != "preact"):
        return False
    return all(_allows(subject, contract, look.case, look.finding, differ) for look in looks)


def _allows(
    subject: FusedSubject, contract: FusedContract, case: Case, finding: Finding, differ: bool
) -> bool:
    """Whether a contract allows the whole tensor that a finding is of."""
    evidence = finding.evidence
    if evidence is None or set(case) != {"gates", "probe"}:
        return False
    own, other = (_expected(subject, of, case, finding.quantity) for of in (subject.fused, contract))
    if own is None or other is None or own.value.hi.shape != evidence.exact.shape:
        return False
    if not np.array_equal(own.value.hi[evidence.wrong], evidence.exact[evidence.wrong]):
        return False  # the law has judged something else
    apart = np.abs(own.value.hi - other.value.hi)[evidence.wrong]
    if differ and not (apart > own.bound.bound[evidence.wrong]).any():
        return False
    return _within(evidence, other)


def _within(evidence: Evidence, expected: Expected) -> bool:
    judged = evidence.judged & ~expected.bound.free
    computed = evidence.computed[judged]
    if not np.isfinite(computed).all() or not judged[evidence.wrong].all():
        return False
    error = np.abs(computed - expected.value.hi[judged])
    return bool((error <= expected.bound.bound[judged] + expected.slack[judged]).all())


def _expected(subject: FusedSubject, contract: FusedContract, case: Case, quantity: str) -> Expected | None:
    """Return what a contract requires of a quantity; None of one that is none of a call's results."""
    inputs = subject.inputs(case["gates"], case["probe"])
    rounding = FusedRounding.of(contract, subject.dtype)
    truth = Truth(contract, subject.seen(inputs))
    if quantity == "o":
        return subject.output_of(truth, contract, rounding)
    names = dict(_gradients(subject))
    if quantity not in names:
        return None
    W = torch.from_numpy(case["probe"].cotangent(tuple(inputs.v.shape)))
    dtype = getattr(torch, contract.returns(subject.dtype))
    pulled = Pulled(truth, as_array(W.to(dtype)))
    return subject.gradient_of(pulled, names[quantity], FusedBounds(truth, contract, rounding))


def _gradients(subject: FusedSubject) -> Iterator[tuple[str, str]]:
    for name in NAMES:
        yield subject.gradient_name(name), name

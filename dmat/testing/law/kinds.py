"""The two kinds of kernel, D~ and fused: the subject of each, and the cases of laws that hold for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmat.strategies.cases import dtilde as dtilde_cases
from dmat.strategies.cases import fused as fused_cases
from dmat.strategies.cases.dtilde import Cases
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import Calls
from dmat.testing.law.subject import Subject

DELTA = "delta"  # a fused kernel whose subject has a state and beta
SUBJECTS: Mapping[str, type[Subject]] = {DTILDE: DtildeSubject, FUSED: FusedSubject, DELTA: DeltaSubject}


BOTH = (DTILDE, FUSED)


def _cases(of_dtilde: Cases, parts: str, of_fused: Cases, fused_parts: str) -> Mapping[str, Calls]:
    """Return the cases of a law of both kinds. parts: the parts of a case that describe a call."""
    of_fused_calls = Calls(of_fused, tuple(fused_parts.split()))
    return {DTILDE: Calls(of_dtilde, tuple(parts.split())), FUSED: of_fused_calls}


# The cases of laws of both kinds: a forward call; a call and its backward; the same on integers; a call, and
# rival gates; a call in which the inputs of other places change; the same, for the entry at t and s.
FORWARD = _cases(dtilde_cases.GATES, "gates", fused_cases.PROBED, "gates qkv")
BACKWARD = _cases(dtilde_cases.COTANGENTS, "gates cotangent", fused_cases.PROBED, "gates qkv")
INTEGERS = _cases(dtilde_cases.EXACT, "gates", fused_cases.EXACT, "gates qkv")
INTEGERS_BACK = _cases(dtilde_cases.EXACT_COTANGENTS, "gates cotangent", fused_cases.EXACT, "gates qkv")
RIVAL = _cases(dtilde_cases.WINDOWS, "gates", fused_cases.RIVALS, "gates qkv")
CHANGED = _cases(dtilde_cases.WINDOWS, "gates rival", fused_cases.RIVALS, "gates qkv rival noise")
ENTRY = _cases(dtilde_cases.WINDOWS, "gates rival s", fused_cases.RIVALS, "gates qkv rival noise")


def subject_of(implementation: Implementation, dtype: str, device: str = "cpu", **more: Any) -> Subject:
    """Return the subject for the laws of this implementation's kind. more: the other fields of a Subject."""
    name = DELTA if implementation.contract.erases else implementation.kind
    return SUBJECTS[name](implementation, dtype, device, **more)

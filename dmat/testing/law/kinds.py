"""The two kinds of kernel, D~ and fused: the subject of each, and the cases of laws that hold for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmat.strategies.cases.dtilde import COTANGENTS, GATES, WINDOWS
from dmat.strategies.cases.fused import PROBED, RIVALS
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.law import Calls
from dmat.testing.law.subject import Subject

SUBJECTS: Mapping[str, type[Subject]] = {DTILDE: DtildeSubject, FUSED: FusedSubject}


BOTH = (DTILDE, FUSED)
# The cases of laws of both kinds: a forward call; a call and its backward; a call, and rival gates.
FORWARD = {DTILDE: Calls(GATES, ("gates",)), FUSED: Calls(PROBED, ("gates", "qkv"))}
BACKWARD = {DTILDE: Calls(COTANGENTS, ("gates", "cotangent")), FUSED: Calls(PROBED, ("gates", "qkv"))}
RIVAL = {DTILDE: Calls(WINDOWS, ("gates",)), FUSED: Calls(RIVALS, ("gates", "qkv"))}


def subject_of(implementation: Implementation, dtype: str, device: str = "cpu", **more: Any) -> Subject:
    """Return the subject for the laws of this implementation's kind. more: the other fields of a Subject."""
    return SUBJECTS[implementation.kind](implementation, dtype, device, **more)

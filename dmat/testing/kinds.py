"""What differs by the kind of a kernel: D~ itself, or a fused kernel that D~ is read out of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.dtilde import DtildeSubject
from dmat.testing.readout.subject import FusedSubject
from dmat.testing.subject import Implementation, Subject

SUBJECTS: Mapping[str, type[Subject]] = {DTILDE: DtildeSubject, FUSED: FusedSubject}


def subject_of(implementation: Implementation, dtype: str, device: str = "cpu", **more: Any) -> Subject:
    """Return what the laws of this implementation see. more: the other fields of a Subject."""
    return SUBJECTS[implementation.kind](implementation, dtype, device, **more)

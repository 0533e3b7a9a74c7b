"""The subject of an implementation: of D~ itself, or of a fused kernel that D~ is read out of."""

from __future__ import annotations

from typing import Any

from dmat.testing.contract import FUSED
from dmat.testing.readout.subject import FusedSubject
from dmat.testing.subject import Implementation, Subject


def subject_of(implementation: Implementation, dtype: str, device: str = "cpu", **more: Any) -> Subject:
    """Return what the laws of this implementation see. more: the other fields of a Subject."""
    kind = FusedSubject if implementation.contract.of == FUSED else Subject
    return kind(implementation, dtype, device, **more)

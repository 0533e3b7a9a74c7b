"""The contract of a kernel that computes D~."""

from __future__ import annotations

from dataclasses import dataclass

from dmat.testing.contract.fields import Call, Conduct, Derivatives, Inputs, Masked, Rounding
from dmat.testing.contract.names import DTILDE
from dmat.testing.contract.rows import BaseContract, described


@described
@dataclass(frozen=True)
class Contract(Call, Conduct, Derivatives, Inputs, Masked, Rounding, BaseContract):
    """The promises of a kernel (igate_preact, fgate_preact) -> D~.

    ValueError names the field, its value and what was expected. The fields:
    """

    kind = DTILDE
    of_gradients = "differentiable"

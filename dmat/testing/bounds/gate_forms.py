"""The errors of the gradients of a gate and of its parameters, from the error of the gradient of l."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmat.testing.bounds.formats import CONDITION_ULPS, RATE_ULPS, FusedRounding
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.gate_forms import GateValues


@dataclass(frozen=True)
class GateErrors:
    """The gates of one call under a contract. Arrays have the shape of the gates."""

    gates: GateValues
    contract: FusedContract
    rounding: FusedRounding

    @property
    def plain(self) -> bool:
        """Whether the kernel takes l itself."""
        return self.contract.gate in ("log", "fixed")

    def gate(self, e: Array, A: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of the gate x. e, A: those of the gradient of l.

        |dl/dx| (e + (16 u_a + 3 u_a c) A) + 3 u_a r A, c the condition of dl/dx, r its rate_error.
        gates="absolute" allows 1 - sigmoid(f) for sigmoid(-f): 16 u_a A more (dmat.testing.bounds.dtilde).
        """
        if self.plain:
            return e, A
        u_a, rate = self.rounding.u_a, np.abs(self.gates.rate)
        condition = RATE_ULPS * u_a + CONDITION_ULPS * u_a * self.gates.rate_condition
        absolute = CONDITION_ULPS * self.gates.rate_error + RATE_ULPS * (self.contract.gates == "absolute")
        return rate * (e + condition * A) + absolute * u_a * A, A * np.maximum(1.0, rate)

    def parameter(self, name: str, e: Array, A: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of what each gate adds to the gradient of A_log or dt_bias."""
        if name == "dt_bias":
            return self.gate(e, A)
        u_a, rate = self.rounding.u_a, np.abs(self.gates.of_A)
        moved = CONDITION_ULPS * u_a * self.gates.of_A_condition
        return rate * (e + RATE_ULPS * u_a * A) + moved * A, A * np.maximum(1.0, rate)

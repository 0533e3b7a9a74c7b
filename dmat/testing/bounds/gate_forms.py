"""The errors of the gradients of a gate and of its parameters, from the error of the gradient of l."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmat.testing.bounds.formats import CONDITION_ULPS, RATE_ULPS, FusedRounding
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.gate_forms import GateValues

Both = tuple[Array, Array]  # an error and a magnitude


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

        |dl/dx| (e + (16 u_a + 3 u_a c) A) + 3 u_a r A, c the condition of dl/dx, r its rate_error. Where dt
        may be on either side of its limit, the difference of both derivatives is added.
        gates="absolute" allows 1 - sigmoid(f) for sigmoid(-f): 16 u_a A more (dmat.testing.bounds.dtilde).
        """
        if self.plain:
            return e, A
        u_a, jump, rate = self.rounding.u_a, self.jump_of_log, self.rate
        condition = RATE_ULPS * u_a + CONDITION_ULPS * u_a * self.gates.rate_condition
        absolute = CONDITION_ULPS * self.gates.rate_error + RATE_ULPS * (self.contract.gates == "absolute")
        error = rate * (e + condition * A) + absolute * u_a * A + jump * A
        return error, A * np.maximum(1.0, rate)

    def weighted(self, log: Both, weight: Both) -> Both:
        """Return the error and the magnitude of the gradient of the gate x of a weighted operator.

        log, weight: errors and magnitudes of the gradients of l and of the weight w. To those of l it adds
        |dw/dx| (e + (16 u_a + 3 u_a c) A), c the condition of dw/dx.
        """
        (e, A), own, u_a = weight, self.gates.weight, self.rounding.u_a
        assert own is not None
        rate, (e_log, A_log) = np.maximum(np.abs(own.rate), self.jump), self.gate(*log)
        plain = self.plain  # dw/dx is -1
        condition = 0.0 if plain else RATE_ULPS * u_a + CONDITION_ULPS * u_a * own.rate_condition
        absolute = 0.0 if plain else RATE_ULPS * u_a * (self.contract.gates == "absolute")
        error = e_log + rate * (e + condition * A) + absolute * A + self.jump * A
        return error, A_log + A * np.maximum(1.0, rate)

    @property
    def rate(self) -> Array:
        """|dl/dx|; where dt may be on either side of its limit the larger one."""
        return np.maximum(np.abs(self.gates.rate), self.jump_of_log)

    @property
    def jump_of_log(self) -> Array | float:
        """How much dl/dx differs on both sides of a limit of dt."""
        return self.jump if self.gates.edge is None else self.jump * self.gates.edge.size

    def size_of_bias(self, A: Array, of_weight: Array | None) -> Array:
        """Return the magnitude of what each gate adds to the gradient of dt_bias.

        A, of_weight: the magnitudes of the gradients of l and of the weight w, None where dt is no weight.
        """
        size, own = self.rate * A, self.gates.weight
        if of_weight is None or own is None:
            return size
        return np.asarray(size + np.maximum(np.abs(own.rate), self.jump) * of_weight)

    @property
    def jump(self) -> Array | float:
        """How much the derivatives of dt from both sides of its limit differ, where it may be on either."""
        edge = self.gates.edge
        if edge is None or self.contract.dt_limit is None:
            return 0.0
        near = edge.margin <= CONDITION_ULPS * self.rounding.u_a * edge.moved
        return np.where(near, edge.jump, 0.0)

    def of_A(self, e: Array, A: Array) -> tuple[Array, Array]:
        """Return the error and the magnitude of what each gate adds to the gradient of A_log or A."""
        u_a, rate = self.rounding.u_a, np.abs(self.gates.of_A)
        moved = CONDITION_ULPS * u_a * self.gates.of_A_condition
        return rate * (e + RATE_ULPS * u_a * A) + moved * A, rate * A

"""The output and the gradients of a fused kernel beside their bounds, a head at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from dmat.testing.assertion.dtilde import no_kernel
from dmat.testing.assertion.heads import Head
from dmat.testing.assertion.judged import Judged, expected_within, judge
from dmat.testing.assertion.row_bounds import judged
from dmat.testing.assertion.rows import HeadInputs
from dmat.testing.bounds.formats import Bound, FusedRounding
from dmat.testing.contract import FusedContract
from dmat.testing.errors import NotCovered
from dmat.testing.kernel.fused import LAST, Inputs
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import DeltaPulled, DeltaTruth
from dmat.testing.oracle.fused_inputs import CallInputs
from dmat.testing.verdict.finding import as_array

LARGEST = 2**30  # bytes beside the caller's tensors
STATES = {False: 4.5, True: 7.0}  # so many states a time are held for a delta rule; True: for gradients too
CHUNK = 128  # the error of the inverse of a chunk is found in up to so many steps, each of products of it
MAPS = 2**37  # multiplications of the maps between chunks: some 20 seconds


@dataclass(frozen=True)
class FusedHead:
    """One head of q and k, with its value heads: the tensors of the call cut to it, (1, NH, S, n).

    members: its value heads. begins: where packed sequences begin. handed: the dtype of states, or None.
    """

    contract: FusedContract
    dtype: str
    head: Head
    members: Sequence[Head]
    inputs: Inputs
    begins: tuple[int, ...] = (0,)
    handed: str | None = None

    @property
    def subject(self) -> FusedSubject:
        """The subject of the laws, for its rounding and names."""
        kind = DeltaSubject if self.contract.erases else FusedSubject
        return kind(Implementation("the result", no_kernel, self.contract), self.dtype)

    @property
    def rounding(self) -> FusedRounding:
        """The formats that the kernel rounds to."""
        return self.subject.rounding.handing_over(self.handed)

    def call_inputs(self) -> CallInputs:
        """Return the exact values of the inputs."""
        packed = len(self.begins) > 1
        plain = FusedSubject.read_inputs(
            self.subject, replace(self.inputs, s=None), self.begins, packed=packed
        )
        if self.inputs.b is None:
            return plain
        state = None if self.inputs.s is None else as_array(self.inputs.s)
        return replace(plain, beta=as_array(self.inputs.b)[..., 0], state=state)

    def judge(
        self, results: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> Iterator[Judged]:
        """Judge results and gradients, by the names of kernel.fused, all cut to this head."""
        with np.errstate(all="ignore"):
            found = self._delta(cotangents) if self.contract.erases else self._sums(cotangents, gradients)
            for name, x in results.items():
                yield from self._judged(name, x, *found.result(name))
            for name, x in gradients.items():
                yield from self._judged(self.subject.gradient_name(name), x, *found.gradient(name))

    def _judged(
        self, quantity: str, x: Tensor, value: Array, bound: Bound, slack: Array | None
    ) -> Iterator[Judged]:
        """Judge each head of a tensor. slack: the error of the value; None: that of the laws' filter."""
        if slack is None:
            slack = np.asarray(self.subject.within(quantity, value, bound, _no_ball, "").slack)
        computed, heads = as_array(x).reshape(value.shape), self.members
        for n, head in enumerate([self.head] if value.shape[1] == 1 and len(heads) > 1 else heads):
            own = np.s_[:, n : n + 1]
            allowed = Bound(bound.bound[own], bound.overflow[own], bound.free[own])
            yield judge(computed[own], expected_within(quantity, value[own], slack[own], allowed), head)

    def _sums(self, cotangents: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> OfSum:
        plain = self.call_inputs()
        inputs = HeadInputs(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        W = None if "o" not in cotangents else as_array(cotangents["o"])
        return OfSum(*judged(self.contract, inputs, self.rounding, W, gradients))

    def _delta(self, cotangents: Mapping[str, Tensor]) -> OfDelta:
        inputs = self.call_inputs()
        truth = DeltaTruth(self.contract, inputs)
        bounds = self.subject.bounds_under(truth, self.contract, self.rounding)
        self._require_small(bounds.size_of_chunk, gradients=bool(cotangents))
        if not cotangents:
            return OfDelta(bounds, None)
        W, W_state = (
            as_array(cotangents[name]) if name in cotangents else np.zeros_like(zeros)
            for name, zeros in (("o", inputs.v), (LAST, truth.first))
        )
        return OfDelta(bounds, DeltaPulled(truth, W, W_state))

    def _require_small(self, chunk: int, *, gradients: bool) -> None:
        """Raise NotCovered for a delta rule whose states, or maps between chunks, are too many."""
        (_, NH, S, V), K = self.inputs.v.shape, self.inputs.q.shape[-1]
        chunks = -(-S // chunk)
        states = int(8 * NH * S * K * V * STATES[gradients])
        maps = 8 * NH * chunks * K * (K + 2 * V)
        where = f'reads="delta" at S = {S}, K = {K}, V = {V}'
        if chunk > CHUNK:
            wanted = f"an error_scope or factors of at most {CHUNK}"
            raise NotCovered(f"{where} in a chunk of {chunk} is not covered: expected {wanted}")
        if states + maps > LARGEST:
            raise NotCovered(
                f"{where} is not covered: a state a time takes {states + maps >> 20} MiB, beyond 1024"
            )
        if chunks * chunks * NH * K * K * V > MAPS:
            raise NotCovered(
                f"{where} in chunks of {chunk} is not covered: {chunks} chunks take minutes a head"
            )


def _no_ball(index: tuple[int, ...]) -> Any:
    raise AssertionError(index)


Within = tuple[Array, Bound, Array | None]  # a value, its bound, and its own error; None: a part of the bound


@dataclass(frozen=True)
class OfSum:
    """What is true of one head of a sum, and its bounds."""

    bounds: Any
    pulled: Any

    def result(self, name: str) -> Within:
        """Return the output."""
        return self.bounds.truth.o, self.bounds.output(), self.bounds.truth.o_slack

    def gradient(self, name: str) -> Within:
        """Return the gradient of an input."""
        if name in ("g", "i"):
            bound = self.bounds.gate(self.pulled) if name == "g" else self.bounds.igate(self.pulled)
            return self.pulled.dgate if name == "g" else self.pulled.di, bound, None
        return getattr(self.pulled, f"d{name}"), self.bounds.product(name, self.pulled), None


@dataclass(frozen=True)
class OfDelta:
    """What is true of one head of a delta rule, and its bounds."""

    bounds: Any
    pulled: Any

    def result(self, name: str) -> Within:
        """Return the output or the last state."""
        if name == LAST:
            return self.bounds.truth.last, self.bounds.state(), None
        return self.bounds.truth.o, self.bounds.output(), None

    def gradient(self, name: str) -> Within:
        """Return the gradient of an input."""
        return self.pulled.gradients[name], self.bounds.of_gradients(self.pulled)[name], None

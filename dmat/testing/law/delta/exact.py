"""The exact regime of delta rules: the heads on which every right kernel returns the true values to the bit.

docs/fused.md section 5. A head counts if all that a kernel stores as an operand has the bits of that format,
and if all that it sums stays below 2^24 units, a unit being the common power of two of what is summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dmat.testing.bounds.delta import DeltaBounds
from dmat.testing.bounds.delta_chunk import Chunk, into, onto
from dmat.testing.bounds.formats import Format
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.delta import DeltaPulled, swapped

SMALLEST_UNIT = 12  # no unit of a frame's products is below 2^-12
SUMS = 2.0**24  # sums in float32 are exact below so many units


def bits(form: Format) -> int:
    """Return how many significant bits a format has."""
    return round(-math.log2(form.u))


def has_bits(x: Array, number: int) -> Mask:
    """Return whether all entries of a head have at most so many significant bits, (B, NH)."""
    fraction, _ = np.frexp(x)
    scaled = fraction * 2.0**number
    return np.asarray((scaled == np.round(scaled)).all((-1, -2)))


def unit(x: Array) -> Array:
    """Return the largest power of two, at most 1, that all entries of a head are multiples of, (B, NH)."""
    found = np.full(x.shape[:2], 2.0**-SMALLEST_UNIT)
    for power in reversed(range(SMALLEST_UNIT)):
        scaled = x * 2.0**power
        found = np.where((scaled == np.round(scaled)).all((-1, -2)), 2.0**-power, found)
    return found


def largest(x: Array) -> Array:
    """Return the largest magnitude of a head, (B, NH)."""
    return np.asarray(np.abs(x).max((-1, -2), initial=0.0))


@dataclass
class Admissible:
    """Which heads are exact in every right kernel. bounds: those of the call. heads: the answer, (B, NH)."""

    bounds: DeltaBounds
    inverse: Format
    heads: Mask = field(init=False)

    def __post_init__(self) -> None:
        """Begin with every head if the scale is a power of two, else with none."""
        shape = self.bounds.truth.inputs.q.shape[:2]
        self.heads = np.full(shape, math.frexp(self.bounds.truth.scale)[0] == 0.5)

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks of a kernel that makes no error."""
        return self.bounds.exact_chunks

    def _stored(self, number: int, arrays: Sequence[Array]) -> None:
        for x in arrays:
            self.heads = self.heads & has_bits(x, number)

    def _small(self, x: Array, units: float, of: Array) -> None:
        self.heads = self.heads & (largest(x) < units * of)

    # Forward

    def forward(self) -> Admissible:
        """Leave out the heads whose outputs a right kernel may round."""
        with np.errstate(all="ignore"):
            return self._forward()

    def _forward(self) -> Admissible:
        rounding, truth = self.bounds.rounding, self.bounds.truth
        for chunk in self.chunks:
            self._stored(bits(rounding.operands), self._operands(chunk))
            self._inverse(chunk)
        narrow = min(bits(rounding.handed), bits(rounding.operands))
        self._stored(narrow, [truth.last, truth.first])
        self._stored(bits(rounding.output), [truth.o])
        return self

    def _operands(self, chunk: Chunk) -> list[Array]:
        g = chunk.given
        rk, rv = g.beta * g.k * chunk.eG, g.beta * g.v
        return [chunk.A, chunk.T, rk, rv, chunk.W, chunk.T @ rv, g.written, chunk.P, g.state]

    def _inverse(self, chunk: Chunk) -> None:
        """What a merge stores between its products, and what powers sum, must fit the inversion's format."""
        units = 2.0 ** bits(self.inverse)
        if chunk.n > 1:
            self._small(chunk.X @ np.abs(chunk.A), units, unit(chunk.A) * unit(chunk.T))
            self._small(self._paths(chunk), units, unit(chunk.A))

    def _paths(self, chunk: Chunk) -> Array:
        """Return what bounds all partial sums of an inversion: |T|, or of powers the comparison inverse."""
        if chunk.inversion.doubling is None:
            return chunk.X
        return chunk.inversion.paths(np.abs(chunk.A))[0]

    # Gradients

    def backward(self, pulled: DeltaPulled) -> Admissible:
        """Leave out also the heads whose gradients a right kernel may round."""
        with np.errstate(all="ignore"):
            return self._backward_too(pulled)

    def _backward_too(self, pulled: DeltaPulled) -> Admissible:
        self._forward()
        for (start, end), chunk in zip(self.bounds.spans, self.chunks, strict=True):
            after = pulled.W_state if end == self.bounds.truth.S else self.bounds.gradient_before(pulled, end)
            self._backward(chunk, pulled.W[:, :, start:end], after)
        rounding, d = self.bounds.rounding, pulled.gradients
        keyed = [self._of_key_heads(name, pulled) for name in "qk"]
        self._stored(bits(rounding.products), [*keyed, d["v"]])
        self._stored(bits(rounding.handed), [d["s"]])
        gates = d["g"] if self.bounds.truth.inputs.by_channel else d["g"][..., None]
        self._stored(bits(rounding.gates), [d["b"][..., None], gates])
        return self

    def _of_key_heads(self, name: str, pulled: DeltaPulled) -> Array:
        """Return the gradient of q or k of each value head's key head. Its parts must sum exactly too."""
        heads, each = self.bounds.truth.inputs.heads, pulled.of_keys[name]
        if heads.group > 1:
            number = bits(self.bounds.rounding.products)
            self._stored(number, [each])
            total, least = heads.gathered(np.abs(each)), heads.gathered(unit(each), np.min)
            self._small(heads.repeated(total), 2.0**number, heads.repeated(least))
        return heads.repeated(pulled.gradients[name])

    def _backward(self, chunk: Chunk, W: Array, after: Array) -> None:
        g, T, X = chunk.given, chunk.T, chunk.X
        rk, rv = g.beta * g.k * chunk.eG, g.beta * g.v
        dU = g.scale * swapped(chunk.P) @ W + (g.k * chunk.to_end) @ after
        dR, dP, dW = swapped(T) @ dU, W @ swapped(g.written), dU @ swapped(g.state)
        dT = dU @ swapped(rv) - dW @ swapped(rk)
        half = swapped(T) @ dT
        stored = [after, dU, dR, dP, dW, dT, half, dT @ swapped(T), half @ swapped(T), W]
        self._stored(bits(self.bounds.rounding.operands), stored)
        terms = np.abs(dU) @ swapped(np.abs(rv)) + np.abs(dW) @ swapped(np.abs(rk))
        self._small(swapped(X) @ terms @ swapped(X), SUMS, np.full(X.shape[:2], 2.0**-8))
        if chunk.n > 1:
            N, units = self._paths(chunk), 2.0 ** bits(self.inverse)
            least = np.minimum(unit(chunk.A), unit(dT)) * unit(T)
            self._small(swapped(N) @ np.abs(dT) @ swapped(N), units, least)
        self._pieces(chunk, dR, dP, W, after)

    def _pieces(self, chunk: Chunk, dR: Array, dP: Array, W: Array, after: Array) -> None:
        """A narrow gradient of q or k may be stored in pieces: each sum of them must fit."""
        number = bits(self.bounds.rounding.products)
        if number >= 24:
            return
        g, E = chunk.given, chunk.E
        dA = -(dR @ swapped(g.written)) * chunk.strict
        of_k = [
            g.beta * into(dA, g.k, E),
            onto(g.beta * dA, g.k, E),
            g.beta * chunk.eG * (dR @ swapped(g.state)),
            g.scale * onto(dP, g.q, E),
            chunk.to_end * (g.written @ swapped(after)),
        ]
        of_q = [g.scale * into(dP, g.k, E), g.scale * chunk.eG * (W @ swapped(g.state))]
        for pieces in (of_k, of_q):
            size = np.sum([np.abs(piece) for piece in pieces], axis=0)
            self._small(size, 2.0**number, np.min([unit(piece) for piece in pieces], axis=0))

"""The bounds on the error of a fused kernel: docs/fused.md section 2, one function for each inequality.

Arrays are float64; every bound is absolute, in the unit of the entry it bounds, and rounded up by EVALUATION.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dmat.testing.bounds.after import AfterErrors
from dmat.testing.bounds.formats import (
    EVALUATION,
    Bound,
    Format,
    gamma,
)
from dmat.testing.bounds.fused_terms import TermErrors
from dmat.testing.bounds.gate_forms import GateErrors
from dmat.testing.bounds.heads import largest, of_heads
from dmat.testing.bounds.latest import latest
from dmat.testing.bounds.scope import no_larger, product
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.fused import Pulled, columns_before, rectangles, rows_from
from dmat.testing.oracle.reads import LARGEST_LOG

OPERANDS_BACK = 6  # roundings of the operands of a term of a gradient
PULLED = 24  # scale, copies, casts of a gradient, in u_a


@dataclass(frozen=True)
class FusedBounds(TermErrors):
    """The bounds of one call."""

    # The output. Magnitudes of a head are (B, NH): a head's bound does not depend on its neighbours.

    @cached_property
    def largest_igate(self) -> Array:
        """The largest e^i of a head, (B, NH); 1 where a stabiliser is needed, which divides by it again."""
        igate = self.truth.inputs.igate
        if self.truth.reads.normalised and not self.truth.reads.adds_eps:
            return np.ones(igate.shape[:-1])
        return np.asarray(np.exp(np.minimum(igate.max(-1, initial=0.0), LARGEST_LOG)))

    @cached_property
    def big(self) -> Array:
        """The largest factor of a head that may multiply the loss of one step later, (B, NH)."""
        inputs = self.truth.inputs
        q, k, v, weight = map(largest, (inputs.q, inputs.k, inputs.v, self.truth.weight))
        size = q * k * v * weight * max(1.0, self.truth.scale) * self.largest_igate
        return np.asarray(size * self.after.largest)

    @cached_property
    def after(self) -> AfterErrors:
        """The errors of the skip and of the gate z."""
        return AfterErrors(self.truth.after, self.rounding)

    @property
    def lost(self) -> Array:
        """A head's loss to underflow of S terms of K products, (B, NH)."""
        return self.heads.total(self.lost_each)

    @cached_property
    def lost_each(self) -> Array:
        """The loss of each head of the truth. A state may lose its own format's floor."""
        inputs, tiny = self.truth.inputs, self.rounding.tiny
        if inputs.crossing.any():
            tiny = max(tiny, self.rounding.handed.floor)
        return np.asarray((inputs.S + inputs.K + 4) * tiny * self.big)

    @cached_property
    def n_error(self) -> Array:
        """The error of the normaliser, (B, NH, t)."""
        truth, u_a = self.truth, self.rounding.u_a
        error = self.term_error.sum(-1)
        error = error + gamma(truth.inputs.S, u_a) * (truth.sizes.sum(-1) + error)
        _, high = self.stabiliser
        own = 0.0 if truth.reads.adds_eps else self.contract.eps
        eps = own * np.exp(np.minimum(high, LARGEST_LOG))
        return np.asarray(error + eps + 8 * u_a * truth.normaliser[..., 0])

    @cached_property
    def additions(self) -> Array:
        """The most additions of a column of the output, (B, NH, 1, V): its terms, less 1."""
        terms = np.count_nonzero(self.truth.inputs.v, axis=-2)
        return np.asarray(np.maximum(self.heads.total(terms) - 1, 0)[..., None, :])

    @cached_property
    def o_sizes(self) -> Array:
        """The magnitude of the terms of the output, before any normaliser, (B, NH, t, V)."""
        return self.heads.total(self.truth.sizes @ np.abs(self.truth.inputs.v))

    @cached_property
    def o_error(self) -> Array:
        """The error of the output before it is stored, (B, NH, t, V).

        dN = sum da |v| + gamma(terms - 1) sum (a + da) |v|. With a normaliser of error dn:
        (dN + |o| dn) / (normaliser - dn). Nothing is promised where dn reaches the normaliser.
        """
        truth = self.truth
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            dN = self.heads.total(product(self.term_error, np.abs(truth.inputs.v)))
            dN = dN + gamma(self.additions, self.rounding.u_a) * (self.o_sizes + dN)
            if not self.truth.reads.normalised:
                return dN
            dn, den = self.n_error[..., None], truth.normaliser
            return np.where(dn < den, (dN + np.abs(truth.o) * dn) / (den - dn), np.inf)

    @cached_property
    def grown(self) -> Array:
        """The growth of a loss to underflow: 1 + e^m / normaliser, (B, NH, t, 1); 1 without normaliser."""
        if not self.truth.reads.normalised:
            return np.ones((*self.heads.total(self.truth.n).shape, 1))
        with np.errstate(over="ignore"):
            return 1 + np.exp(np.minimum(self.stabiliser[1], LARGEST_LOG))[..., None] / self.truth.normaliser

    @cached_property
    def overflows(self) -> Mask:
        """Whether an operand or a state of a head (k e^i, q.k e^i) may overflow although no result does."""
        inputs, way = self.truth.inputs, (self.rounding.accumulator, self.rounding.operands)
        q, k, products = largest(inputs.q), largest(inputs.k), self.largest_product
        others = largest(inputs.v) * largest(self.truth.weight) * self.largest_igate
        reach = np.maximum(np.maximum(q, k), products) * others
        return np.asarray(self.heads.total(reach) >= min(form.largest for form in way) / 2)

    @cached_property
    def largest_product(self) -> Array:
        """The largest scale |q_t| . |k_s| of a head, at least 1, (B, NH)."""
        return largest(self.truth.product_sizes)

    def output(self) -> Bound:
        """Bound |computed - o|: e (1 + u) + u |o| + lost (1 + e^m / normaliser) + tiny of its format."""
        u, sums = self.rounding.output.u, self.truth.sums
        with np.errstate(over="ignore", invalid="ignore"):
            error = self.after.output(self.o_error, sums)
            lost = self.after.lost(sums, of_heads(self.lost, error) * self.grown)
            bound = error + u * (np.abs(self.truth.o) + error) + lost
            bound = bound + self.rounding.output.floor
            large = self.after.sizes(self.o_sizes) >= self.rounding.largest / 2
            overflow = large | of_heads(self.overflows, error)
        return self._bound(bound, overflow)

    def _bound(self, bound: Array, overflow: Mask) -> Bound:
        free = ~np.isfinite(bound)
        return Bound(np.where(free, 0.0, bound) * EVALUATION, np.asarray(overflow | free), free)

    # Gradients

    @cached_property
    def n_relative(self) -> Array:
        """The relative error of the normaliser, (B, NH, t, 1). Above 1/2 nothing is promised."""
        if not self.truth.reads.normalised:
            return np.zeros((*self.truth.n.shape, 1))
        relative = (self.n_error / self.truth.normaliser[..., 0])[..., None]
        return np.where(relative <= 0.5, relative, np.inf)

    @cached_property
    def E_error_back(self) -> Array:
        """The error of E / N in a gradient term, times N, the normaliser.

        2 dE + E (2 dn/n + u_a (2 S + V + K + 24) + 6 u_m + 2 u_h a call where a state is handed over).
        """
        inputs, u_a = self.truth.inputs, self.rounding.u_a
        depth = 2 * inputs.S + inputs.v.shape[-1] + inputs.K + PULLED
        rest = 2 * self.n_relative + u_a * depth + OPERANDS_BACK * self.rounding.u_m + self.after.of_rows
        if inputs.crossing.any():  # a cache: the parts of the gradient that each call adds, in its format
            rest = rest + 2 * (inputs.crossing.max() + 1) * self.rounding.handed.u
        return 2 * self.E_error + np.where(np.isfinite(rest), self.truth.E * rest, np.inf)

    def along_error(self, pulled: Pulled) -> Array:
        """The error of W_t . o_t in a slope, (B, NH, t, 1).

        A backward may sum it over all terms of the row in any order, or compute it from the stored o.
        """
        if not self.truth.reads.normalised:
            return np.zeros((*self.truth.n.shape, 1))
        u = self.rounding.output.u
        sums = gamma(self.truth.inputs.S + pulled.W.shape[-1], self.rounding.u_a) * self.o_sizes
        each = self.o_error * (1 + u) + u * np.abs(self.truth.o) + sums / self.truth.normaliser
        return np.asarray((np.abs(pulled.W) * each).sum(-1, keepdims=True))

    @latest
    def per_product_error(self, pulled: Pulled) -> Array:
        """The error of the gradient of scale q_t.k_s. In a softmax it is the error of the gradient of D~ too.

        Where n is within its error of a jump of dN / dn, the slope may contain the part of dN / dn or not.
        """
        truth = self.truth
        weight = np.abs(truth.weight)
        error = self.weighted(self.E_error_back, truth.E) / truth.normaliser * pulled.slope_sizes
        error = error + weight * truth.E / truth.normaliser * self.along_error(pulled)
        if truth.reads.normalised:
            bent = truth.reads.bent(truth.n, self.n_error)[..., None]
            either = weight * truth.E / truth.normaliser * np.abs(pulled.along)[..., None]
            error = error + np.where(bent, either, 0.0)
        return error

    @latest
    def entry_error(self, pulled: Pulled) -> Array:
        """The error of the gradient of D~[t, s], without the rounding left by a stabiliser (`left_over`)."""
        error = self.per_product_error(pulled)
        return self.truth.reads.coefficient(error, self.truth.product_sizes)

    @latest
    def left_over(self, error: Array) -> tuple[Array, Array]:
        """The rounding left by a stabiliser's derivative, which cancels: [t, s]; for a start from m = 0 [t].

        The rounding goes to the largest term of the row so far. So each term gets the errors of all terms
        that may be no larger than itself.
        """
        if not self.truth.reads.normalised:
            return np.zeros_like(error), np.zeros(error.shape[:-1])
        e = self.log_error
        low, high = self.truth.exponent - e, self.truth.exponent + e
        high = np.where(self.truth.inputs.unread, -np.inf, high)
        left, from_start = no_larger(low, error, high), np.zeros(error.shape[:-1])
        if self.truth.reads.from_zero:
            reach = self.since + np.max(e, -1, initial=0.0)
            from_start = no_larger(low, error, reach[..., None])[..., 0]
        return left, from_start

    @cached_property
    def gate_scope(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first time of a gate's chunk, and the end of the chunk (exclusive), (S,) each.

        A chunk may measure its sums from any of its times r: exp(c[t] - c[r]) exp(c[r] - c[s]). The gradient
        of c[r] sums all entries of the chunk, and reaches every gate up to r.
        """
        times = np.arange(self.truth.inputs.S)
        if not isinstance(self.contract.error_scope, int):
            return times, times
        ends = [after_last(start) for start in self.starts]
        return np.min(self.starts, axis=0), np.max(ends, axis=0)

    def over_grad_scope(self, X: Array) -> Array:
        """Sum the magnitudes of entries for the gradient of each gate, each entry as often as it is added."""
        first, end = self.gate_scope
        match self.contract.widest_gradient:
            case "suffix":  # row sums minus column sums, from k on: a column s >= k has t >= s >= k
                return 2 * rows_from(X)[..., first]
            case "prefix":  # column sums minus row sums, before k: a row t < k has s <= t < k
                return 2 * columns_before(X)[..., end]
        return rectangles(X)

    @latest
    def log_gate(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of l: of the rectangle, or of rows or columns.

        That of the weight w is not in it.

        A sum of N terms of magnitude A, in any order, adds gamma(N) A.
        """
        *entries, from_start = self.entries(pulled)
        e, A, N = map(self.over_grad_scope, entries)
        return e + gamma(N, self.rounding.u_a) * A + rows_from(from_start[..., None]), A

    def entries(self, pulled: Pulled) -> tuple[Array, Array, Array, Array]:
        """Return the errors, magnitudes and numbers of the terms of the gradients of D~.

        Last of all what a start from m = 0 adds in each row, (B, NH, t).
        """
        error = self.entry_error(pulled)
        left, from_start = self.left_over(error)
        return error + left, pulled.sizes, (pulled.sizes != 0).astype(np.float64), from_start

    def of_weight(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of the weight w, (B, NH, S)."""
        column = self.truth.product_sizes * pulled.slope_sizes
        return (column * self.E_error_back).sum(-2), (column * self.truth.E).sum(-2)

    def each_gate(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of each gate x, without what underflows."""
        gates = GateErrors(self.truth.gates, self.contract, self.rounding)
        e, A = self.log_gate(pulled)
        if not gates.plain:  # the gradient of l may underflow before it is multiplied by dl / dx
            with np.errstate(over="ignore", invalid="ignore"):
                own = self.lost_each * self.truth.reads.magnified(*self.stabiliser)
                e = e + 64 * of_heads(own, e) * (1 + A)
        if self.truth.contract.weight == "dt":
            return gates.weighted((e, A), self.of_weight(pulled))
        return gates.gate(e, A)

    def gate(self, pulled: Pulled) -> Bound:
        """Bound the gradient of the gate that the kernel takes."""
        e, A = map(self.heads.joined, self.each_gate(pulled))
        e = np.where(self.heads.joined(self.truth.undefined), np.inf, e)
        return self._stored(e, pulled.dgate, A, self.rounding.gates)

    def parameter(self, name: str, pulled: Pulled) -> Bound:
        """Bound the gradient of a parameter or D, a sum over batches and times: (1, NH, 1), or (1, NH, n)."""
        gates, inputs = GateErrors(self.truth.gates, self.contract, self.rounding), self.truth.inputs
        if name == "D":
            e, A = self.after.of_D(pulled.inner)
        else:
            e, A = self.log_gate(pulled)
            reach = inputs.of_parameter(name, A)
            if name != "dt_bias":
                e, A = gates.of_A(e, A)
            else:
                weight = self.of_weight(pulled)[1] if self.truth.contract.weight == "dt" else None
                e, A = self.each_gate(pulled)[0], gates.size_of_bias(A, weight)
            e, A = (inputs.of_parameter(name, x) for x in (e, A))
            N = inputs.fgate.shape[0] * inputs.S * inputs.heads.parts
            e = e + gamma(N, self.rounding.u_a) * (A + e)
            A = A + reach
        lost = inputs.S * self.lost.sum(0, keepdims=True)
        overflows = np.asarray(self.overflows.any(0))[None]
        return self._stored_as(e, pulled.parameters[name], A, self.rounding.parameters, lost, overflows)

    def igate(self, pulled: Pulled) -> Bound:
        """Bound the gradient of i: the errors of its column."""
        e, A = map(self.heads.total, self._of_igate(pulled))
        return self._stored(e, pulled.di, A, self.rounding.gates)

    def _of_igate(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of i."""
        error = self.entry_error(pulled)
        return (error + self.left_over(error)[0]).sum(-2), pulled.sizes.sum(-2)

    def product(self, name: str, pulled: Pulled) -> Bound:
        """Bound the gradient of q, k or v: the errors of its row or column, times the other factor.

        q and k are those of a key head: each value head's part may be stored before they are summed.
        """
        if name == "z":
            o, sizes = self.truth.sums, self.o_sizes
            error, size = self.after.of_z(pulled.W, self.o_error, o, sizes)
            return self._stored(error, pulled.dz, size, self.rounding.products)
        if name == "v":
            error, size = map(self.heads.total, self._of_v(pulled))
            error, size = self.after.of_v(error, size, pulled.dv, pulled.inner)
            return self._stored(error, pulled.dv, size, self.rounding.products)
        error, size = map(self.heads.joined, self._of_key(name, pulled))
        each, value = (pulled.dq_each, pulled.dq) if name == "q" else (pulled.dk_each, pulled.dk)
        if self.heads.group > 1:
            form = self.rounding.products
            stored = form.u * (np.abs(each) + error) + form.floor
            error = error + stored + gamma(self.heads.group, self.rounding.u_a) * (size + error)
        return self._stored(error, value, size, self.rounding.products)

    def _of_v(self, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of v."""
        truth, W = self.truth, np.abs(pulled.W_each)
        error = self.weighted(self.E_error_back, truth.E) / truth.normaliser
        error = truth.reads.coefficient(error, truth.product_sizes)
        sizes = np.swapaxes(truth.sizes / truth.normaliser, -1, -2) @ W
        return product(np.swapaxes(error, -1, -2), W), sizes

    def _of_key(self, name: str, pulled: Pulled) -> tuple[Array, Array]:
        """Return the error and the magnitude of the gradient of what a value head reads as q or k."""
        sizes = pulled.per_product_sizes * self.truth.scale
        error = self.per_product_error(pulled)
        if self.truth.reads.scored:
            error = error + self.left_over(error)[0]
        error = error * self.truth.scale
        if name == "k":
            sizes, error = np.swapaxes(sizes, -1, -2), np.swapaxes(error, -1, -2)
        other = np.abs(self.truth.inputs.k if name == "q" else self.truth.inputs.q)
        return product(error, other), sizes @ other

    def _stored(self, error: Array, value: Array, size: Array, output: Format) -> Bound:
        """Return e (1 + u) + u |value| + the loss to underflow, which e^m or e^-m may magnify.

        Errors and magnitudes are those of value heads, or of the value's own.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            lost, overflows = self.lost * self.truth.reads.magnified(*self.stabiliser), self.overflows
            if error.shape != value.shape:  # of a key head
                error, size, lost = map(self.heads.gathered, (error, size, lost))
                overflows = self.heads.gathered(overflows, np.any)
        return self._stored_as(error, value, size, output, lost, overflows)

    def _stored_as(
        self, error: Array, value: Array, size: Array, output: Format, lost: Array, overflows: Mask
    ) -> Bound:
        """Return e (1 + u) + u |value| + a head's loss to underflow, (B, NH), times what may magnify it."""
        with np.errstate(over="ignore", invalid="ignore"):
            lost = 64 * of_heads(lost, error) * (1 + size + np.abs(value)) + output.floor
            bound = error * (1 + output.u) + output.u * np.abs(value) + lost
            overflow = 2 * size + error >= min(self.rounding.largest, output.largest) / 2
            overflow = overflow | of_heads(overflows, error)
        return self._bound(bound, overflow)


def after_last(start: Array) -> npt.NDArray[np.int64]:
    """Return the time after the last one that has the start of each time, (S,)."""
    _, last, which = np.unique(start[::-1], return_index=True, return_inverse=True)
    return np.asarray(len(start) - last[which[::-1]])


GRADIENT_BOUNDS = (FusedBounds.product, FusedBounds.igate, FusedBounds.gate, FusedBounds.parameter)
ALL_BOUNDS = (FusedBounds.output, *GRADIENT_BOUNDS)

"""The bounds on the error of a fused kernel: docs/fused.md section 2, one function for each inequality.

Arrays are float64; every bound is absolute, in the unit of the entry it bounds, and rounded up by EVALUATION.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dmat.testing.bounds.formats import (
    CONDITION_ULPS,
    EVALUATION,
    LOG_SIGMOID_ULPS,
    RATE_ULPS,
    Bound,
    Format,
    FusedRounding,
    gamma,
)
from dmat.testing.bounds.heads import largest, of_heads
from dmat.testing.bounds.latest import latest
from dmat.testing.bounds.scope import no_larger, product, scope_sums
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array, Mask, single
from dmat.testing.oracle.fused import Pulled, Truth, columns_before, rectangles, rows_from
from dmat.testing.oracle.gates import window_sums
from dmat.testing.oracle.reads import LARGEST_LOG

EXP_ARGUMENT = 4  # exp(x) is 2^(x log2 e): the relative error of its argument, in u_a
PER_FACTOR = 6  # an exponential, and the product with it, in u_a
OPERANDS = 4  # roundings of the operands of one term: q, k, the coefficient or the state, v
OPERANDS_BACK = 6  # the same for a term of a gradient
PRODUCT = 8  # scale, copies, casts, in u_a
PULLED = 24  # the same for a gradient


@dataclass(frozen=True)
class FusedBounds:
    """The bounds of one call. Their contract may differ from the truth's, which defines the true values."""

    truth: Truth
    contract: FusedContract
    rounding: FusedRounding

    # One term

    @cached_property
    def factors(self) -> Array:
        """J, the number of exponentials whose product is E, [t, s]."""
        inputs, stated = self.truth.inputs, self.contract.factors
        t, s = np.arange(inputs.S)[:, None], np.arange(inputs.S)[None, :]
        handed_over = 3.0 * inputs.crossing
        if stated == "one":
            return np.asarray(1.0 + handed_over)
        if stated == "steps":
            return np.asarray(np.maximum(t - s, 0) + 1.0 + handed_over)
        chunk = np.asarray((np.arange(inputs.S) - inputs.begin) // int(stated) + inputs.begin)
        return np.maximum(chunk[:, None] - chunk[None, :], 0) + 3.0 + handed_over

    @cached_property
    def starts(self) -> list[Array]:
        """The possible starts of each source's scope, (S,) each: several where a kernel has a choice.

        A prefix starts at 0: a cumulative sum may continue over calls and packed sequences. Chunks may be
        counted from the start of a packed sequence, or from the start of all sequences.
        """
        inputs, scope = self.truth.inputs, self.contract.error_scope
        if scope == "prefix":
            return [np.zeros(inputs.S, dtype=np.int64)]
        begins = [inputs.begin, np.zeros_like(inputs.begin)] if inputs.packed else [inputs.begin]
        return [np.asarray(n + (np.arange(inputs.S) - n) // int(scope) * int(scope)) for n in begins]

    def over_scope(self, terms: Array, windows: Array) -> Array:
        """Sum the magnitudes in each entry's error scope. terms: one per gate. windows: sums over windows."""
        if self.contract.error_scope == "window":
            return windows
        return np.asarray(np.max([scope_sums(start, terms, windows) for start in self.starts], axis=0))

    @cached_property
    def length(self) -> Array:
        """n, the number of terms in the error scope, [t, s]."""
        inputs, scope = self.truth.inputs, self.contract.error_scope
        t, s = np.arange(inputs.S)[:, None], np.arange(inputs.S)[None, :]
        if scope == "window":
            return np.asarray(np.maximum(t - s, 0).astype(np.float64))
        return np.asarray(np.maximum(t - np.min(self.starts, axis=0)[None, :], 0) + 2.0)

    @cached_property
    def since(self) -> Array:
        """The sum of l since the call began, (B, NH, t): the m of a kernel that starts from m = 0."""
        total, begin = np.cumsum(self.truth.log, -1), self.truth.inputs.begin
        return np.asarray(total - (total[..., begin] - self.truth.log[..., begin]))

    @cached_property
    def stabiliser(self) -> tuple[Array, Array]:
        """The smallest and the largest m of each row, (B, NH, t). The largest ignores decays of i."""
        with np.errstate(invalid="ignore"):
            low = np.max(self.truth.exponent, -1, initial=-np.inf)
        low = np.where(np.isfinite(low), low, 0.0)
        return low, self.truth.reads.stabiliser(low, self.since, self.truth.inputs.igate)

    @cached_property
    def log_error(self) -> Array:
        """The error e of the logarithm of one term a[t, s] v_s.

        e has three parts. The exponent: gamma(n + 12) M + 3 u_a C over the error scope, M = |i| + sum |l|.
        A stabiliser: 4 (J + 1) u_a |m|. The product: u_a (6 J + K + 8) + [u_m > u_a] 4 u_m.
        """
        truth, u_a = self.truth, self.rounding.u_a
        K = truth.inputs.q.shape[-1]
        with np.errstate(over="ignore", invalid="ignore"):
            M = self.over_scope(-truth.log, -truth.windows) + np.abs(truth.inputs.igate)[..., None, :]
            C = self.over_scope(truth.condition, self._windows_of(truth.condition))
            e = gamma(self.length + LOG_SIGMOID_ULPS + EXP_ARGUMENT, u_a) * M + CONDITION_ULPS * u_a * C
            if self.contract.gates == "absolute":
                e = e + gamma(LOG_SIGMOID_ULPS, u_a) * self.length
            product = (u_a * (K + PRODUCT) + OPERANDS * self.rounding.u_m) * truth.product_sizes
            e = truth.reads.exponent(e, product)
            if truth.reads.normalised:
                sizes = np.maximum(*map(np.abs, self.stabiliser))
                reached = np.maximum.accumulate(sizes, axis=-1) if truth.inputs.S else sizes
                e = e + 4 * (self.factors + 1) * u_a * reached[..., None]
            e = e + u_a * (PER_FACTOR * self.factors + K + PRODUCT) + OPERANDS * self.rounding.u_m
            e = e + truth.inputs.crossing * 2 * self.rounding.handed.u
            return np.where(np.isnan(e), np.inf, e)

    @cached_property
    def E_error(self) -> Array:
        """The error of E, with its whole term's rounding: exp(D~ + e) - exp(D~), inf where that overflows.

        E may be 0 in float64 where exp(D~ + e) is large: a difference of sums near -1e15 loses all digits of
        -1000, and gives 1 for exp(-1000).
        """
        e = self.log_error
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            error = np.exp(self.truth.exponent + e + np.log(-np.expm1(-e)))
        return np.where(self.truth.exponent == -np.inf, 0.0, error)

    @cached_property
    def term_error(self) -> Array:
        """The error of the coefficient a[t, s], before any normaliser."""
        return self.truth.reads.coefficient(
            np.abs(self.truth.weight) * self.E_error, self.truth.product_sizes
        )

    def _windows_of(self, terms: Array) -> Array:
        if not terms.any():
            return np.zeros_like(self.truth.windows)
        return window_sums(single(terms), wide=False).hi

    # The output. Magnitudes of a head are (B, NH): a head's bound does not depend on its neighbours.

    @cached_property
    def largest_igate(self) -> Array:
        """The largest e^i of a head, (B, NH); 1 with a stabiliser, which divides by it again."""
        igate = self.truth.inputs.igate
        if self.truth.reads.normalised:
            return np.ones(igate.shape[:-1])
        return np.asarray(np.exp(np.minimum(igate.max(-1, initial=0.0), LARGEST_LOG)))

    @cached_property
    def big(self) -> Array:
        """The largest factor of a head that may multiply the loss of one step later, (B, NH)."""
        inputs = self.truth.inputs
        q, k, v, weight = map(largest, (inputs.q, inputs.k, inputs.v, self.truth.weight))
        return q * k * v * weight * max(1.0, self.truth.scale) * self.largest_igate

    @property
    def lost(self) -> Array:
        """A head's loss to underflow of S terms of K products, (B, NH).

        A state may lose its own format's floor.
        """
        inputs, tiny = self.truth.inputs, self.rounding.tiny
        if inputs.crossing.any():
            tiny = max(tiny, self.rounding.handed.floor)
        return np.asarray((inputs.S + inputs.q.shape[-1] + 4) * tiny * self.big)

    @cached_property
    def n_error(self) -> Array:
        """The error of the normaliser, (B, NH, t)."""
        truth, u_a = self.truth, self.rounding.u_a
        error = self.term_error.sum(-1)
        error = error + gamma(truth.inputs.S, u_a) * (truth.sizes.sum(-1) + error)
        _, high = self.stabiliser
        eps = self.contract.eps * np.exp(np.minimum(high, LARGEST_LOG))
        return np.asarray(error + eps + 8 * u_a * truth.normaliser[..., 0])

    @cached_property
    def o_sizes(self) -> Array:
        """The magnitude of the terms of the output, before any normaliser, (B, NH, t, V)."""
        return self.truth.sizes @ np.abs(self.truth.inputs.v)

    @cached_property
    def o_error(self) -> Array:
        """The error of the output before it is stored, (B, NH, t, V).

        dN = sum da |v| + gamma(terms - 1) sum (a + da) |v|. With a normaliser of error dn:
        (dN + |o| dn) / (normaliser - dn). Nothing is promised where dn reaches the normaliser.
        """
        truth = self.truth
        terms = np.maximum(np.count_nonzero(truth.inputs.v, axis=-2) - 1, 0)[..., None, :]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            dN = product(self.term_error, np.abs(truth.inputs.v))
            dN = dN + gamma(terms, self.rounding.u_a) * (self.o_sizes + dN)
            if not self.truth.reads.normalised:
                return dN
            dn, den = self.n_error[..., None], truth.normaliser
            return np.where(dn < den, (dN + np.abs(truth.o) * dn) / (den - dn), np.inf)

    @cached_property
    def grown(self) -> Array:
        """The growth of a loss to underflow: 1 + e^m / normaliser, (B, NH, t, 1); 1 without normaliser."""
        if not self.truth.reads.normalised:
            return np.ones((*self.truth.n.shape, 1))
        with np.errstate(over="ignore"):
            return 1 + np.exp(np.minimum(self.stabiliser[1], LARGEST_LOG))[..., None] / self.truth.normaliser

    @cached_property
    def overflows(self) -> Mask:
        """Whether an operand or a state of a head (k e^i, q.k e^i) may overflow although no result does."""
        inputs, way = self.truth.inputs, (self.rounding.accumulator, self.rounding.operands)
        q, k, products = map(largest, (inputs.q, inputs.k, self.truth.product_sizes))
        others = largest(inputs.v) * largest(self.truth.weight) * self.largest_igate
        reach = np.maximum(np.maximum(q, k), products) * others
        return np.asarray(reach >= min(form.largest for form in way) / 2)

    def output(self) -> Bound:
        """Bound |computed - o|: e (1 + u) + u |o| + lost (1 + e^m / normaliser) + tiny of its format."""
        u, error = self.rounding.output.u, self.o_error
        with np.errstate(over="ignore", invalid="ignore"):
            bound = error + u * (np.abs(self.truth.o) + error) + of_heads(self.lost, error) * self.grown
            bound = bound + self.rounding.output.floor
            overflow = (self.o_sizes >= self.rounding.largest / 2) | of_heads(self.overflows, error)
        return self._bound(bound, overflow)

    def _bound(self, bound: Array, overflow: Mask) -> Bound:
        free = ~np.isfinite(bound)
        return Bound(np.where(free, 0.0, bound) * EVALUATION, np.asarray(overflow | free), free)

    # Gradients

    @cached_property
    def n_relative(self) -> Array:
        """The relative error of the normaliser, (B, NH, t, 1). Above 1/2 nothing is promised."""
        if not self.truth.reads.normalised:
            return np.zeros((*self.truth.log.shape, 1))
        relative = (self.n_error / self.truth.normaliser[..., 0])[..., None]
        return np.where(relative <= 0.5, relative, np.inf)

    @cached_property
    def E_error_back(self) -> Array:
        """The error of E / N in a gradient term, times N, the normaliser.

        2 dE + E (2 dn/n + u_a (2 S + V + K + 24) + 6 u_m).
        """
        inputs, u_a = self.truth.inputs, self.rounding.u_a
        depth = 2 * inputs.S + inputs.v.shape[-1] + inputs.q.shape[-1] + PULLED
        rest = 2 * self.n_relative + u_a * depth + OPERANDS_BACK * self.rounding.u_m
        return 2 * self.E_error + np.where(np.isfinite(rest), self.truth.E * rest, np.inf)

    def along_error(self, pulled: Pulled) -> Array:
        """The error of W_t . o_t in a slope, (B, NH, t, 1).

        A backward may sum it over all terms of the row in any order, or compute it from the stored o.
        """
        if not self.truth.reads.normalised:
            return np.zeros((*self.truth.log.shape, 1))
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
        error = weight * self.E_error_back / truth.normaliser * pulled.slope_sizes
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
        ends = [np.searchsorted(start, start, side="right") for start in self.starts]
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

    def gate(self, pulled: Pulled) -> Bound:
        """Bound the gradient of l, or of f: the errors of the rectangle, or twice those of rows or columns.

        A sum of N terms of magnitude A, in any order, adds gamma(N) A. For f: sigmoid(-f) (e + (16 u_a +
        3 u_a c) A), c the condition of the rate. gates="absolute" allows 1 - sigmoid(f) for sigmoid(-f), and
        adds 16 u_a A (dmat.testing.bounds.dtilde).
        """
        truth, u_a, error = self.truth, self.rounding.u_a, self.entry_error(pulled)
        left, from_start = self.left_over(error)
        counted = (pulled.sizes != 0).astype(np.float64)
        e, A, N = map(self.over_grad_scope, (error + left, pulled.sizes, counted))
        e = e + gamma(N, u_a) * A + rows_from(from_start[..., None])
        if truth.contract.weight == "dt":
            column = truth.product_sizes * pulled.slope_sizes
            e = e + (column * self.E_error_back).sum(-2)
            A = A + (column * truth.E).sum(-2)
        if truth.terms is not None:
            condition = RATE_ULPS * u_a + CONDITION_ULPS * u_a * truth.terms.rate_condition
            absolute = RATE_ULPS * u_a * A if self.contract.gates == "absolute" else 0.0
            e = truth.rate * (e + condition * A) + absolute
        return self._stored(e, pulled.dgate, A, self.rounding.gates)

    def igate(self, pulled: Pulled) -> Bound:
        """Bound the gradient of i: the errors of its column."""
        A, error = pulled.sizes.sum(-2), self.entry_error(pulled)
        return self._stored((error + self.left_over(error)[0]).sum(-2), pulled.di, A, self.rounding.gates)

    def product(self, name: str, pulled: Pulled) -> Bound:
        """Bound the gradient of q, k or v: the errors of its row or column, times the other factor."""
        truth, inputs = self.truth, self.truth.inputs
        if name == "v":
            sizes = truth.sizes / truth.normaliser
            error = self.E_error_back / truth.normaliser * np.abs(truth.weight)
            error = truth.reads.coefficient(error, truth.product_sizes)
            A = np.swapaxes(sizes, -1, -2) @ np.abs(pulled.W)
            e = product(np.swapaxes(error, -1, -2), np.abs(pulled.W))
            return self._stored(e, pulled.dv, A, self.rounding.products)
        sizes = pulled.per_product_sizes * truth.scale
        error = self.per_product_error(pulled) * truth.scale
        if name == "k":
            sizes, error = np.swapaxes(sizes, -1, -2), np.swapaxes(error, -1, -2)
        other, value = (inputs.k, pulled.dq) if name == "q" else (inputs.q, pulled.dk)
        return self._stored(
            product(error, np.abs(other)), value, sizes @ np.abs(other), self.rounding.products
        )

    def _stored(self, error: Array, value: Array, size: Array, output: Format) -> Bound:
        """Return e (1 + u) + u |value| + the loss to underflow, which e^m or e^-m may magnify."""
        with np.errstate(over="ignore", invalid="ignore"):
            grown = self.truth.reads.magnified(*self.stabiliser)
            lost = 64 * of_heads(self.lost * grown, error) * (1 + size + np.abs(value)) + output.floor
            bound = error * (1 + output.u) + output.u * np.abs(value) + lost
            overflow = 2 * size + error >= min(self.rounding.largest, output.largest) / 2
            overflow = overflow | of_heads(self.overflows, error)
        return self._bound(bound, overflow)


GRADIENT_BOUNDS = (FusedBounds.product, FusedBounds.igate, FusedBounds.gate)
ALL_BOUNDS = (FusedBounds.output, *GRADIENT_BOUNDS)

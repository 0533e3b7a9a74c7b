"""The error of one term a[t, s] v_s of a fused kernel: docs/fused.md section 2.

Arrays are float64, (B, NH, t, s) unless a docstring gives another shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmat.strategies.recipes.heads import HeadForm
from dmat.testing.bounds.formats import CONDITION_ULPS, LOG_SIGMOID_ULPS, FusedRounding, gamma
from dmat.testing.bounds.scope import scope_sums
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array, single
from dmat.testing.oracle.fused import Truth
from dmat.testing.oracle.gates import window_sums

EXP_ARGUMENT = 4  # exp(x) is 2^(x log2 e): the relative error of its argument, in u_a
PER_FACTOR = 6  # an exponential, and the product with it, in u_a
OPERANDS = 4  # roundings of the operands of one term: q, k, the coefficient or the state, v
PRODUCT = 8  # scale, copies, casts, in u_a


@dataclass(frozen=True)
class TermErrors:
    """The errors of the terms of one call. Their contract may differ from the truth's."""

    truth: Truth
    contract: FusedContract
    rounding: FusedRounding

    @property
    def heads(self) -> HeadForm:
        """How the heads of the truth are made of the kernel's."""
        return self.truth.inputs.heads

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
        counted from the start of a packed sequence, or from the start of all sequences of a call. The first
        time of such a chunk may be one of another sequence; all times from it on are counted.
        """
        inputs, scope = self.truth.inputs, self.contract.error_scope
        if scope == "prefix":
            return [np.zeros(inputs.S, dtype=np.int64)]
        own = inputs.begin + (np.arange(inputs.S) - inputs.begin) // int(scope) * int(scope)
        if not inputs.packed:
            return [np.asarray(own)]
        call, place = inputs.places
        chunk = call * (inputs.S + 1) + place // int(scope)
        _, first, which = np.unique(chunk, return_index=True, return_inverse=True)
        return [np.asarray(own), np.asarray(first[which])]

    @cached_property
    def starts_of_crossing(self) -> Array:
        """The possible start of each source's scope where a state is handed over after it, (S,).

        A later packed call may count its chunk from a time that stands before the source: one of another
        sequence.
        """
        inputs, start = self.truth.inputs, np.min(self.starts, axis=0)
        for sequence in np.unique(inputs.sequence) if inputs.turns else ():
            own = inputs.sequence == sequence
            start[own] = np.minimum.accumulate(start[own][::-1])[::-1]
        return np.asarray(start)

    def over_scope(self, terms: Array, windows: Array) -> Array:
        """Sum the magnitudes in each entry's error scope. terms: one per gate. windows: sums over windows."""
        if self.contract.error_scope == "window":
            return windows
        sums = np.max([scope_sums(start, terms, windows) for start in self.starts], axis=0)
        if self.truth.inputs.turns:
            further = scope_sums(self.starts_of_crossing, terms, windows)
            sums = np.where(self.truth.inputs.crossing > 0, np.maximum(sums, further), sums)
        return np.asarray(sums)

    @cached_property
    def length(self) -> Array:
        """n, the number of terms in the error scope, [t, s]."""
        inputs, scope = self.truth.inputs, self.contract.error_scope
        t, s = np.arange(inputs.S)[:, None], np.arange(inputs.S)[None, :]
        if scope == "window":
            return np.asarray(np.maximum(t - s, 0).astype(np.float64))
        start = self.starts_of_crossing if inputs.turns else np.min(self.starts, axis=0)
        return np.asarray(np.maximum(t - start[None, :], 0) + 2.0)

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
    def reached(self) -> Array:
        """The largest |m| up to each row, (B, NH, t)."""
        sizes = np.maximum(*map(np.abs, self.stabiliser))
        return np.maximum.accumulate(sizes, axis=-1) if self.truth.inputs.S else sizes

    @cached_property
    def log_error(self) -> Array:
        """The error e of the logarithm of one term a[t, s] v_s.

        e has three parts. The exponent: gamma(n + 12) M + 3 u_a C over the error scope, M = |i| + sum |l|.
        A stabiliser: 4 (J + 1) u_a |m|. The product: u_a (6 J + K + 8) + [u_m > u_a] 4 u_m.
        """
        truth, u_a = self.truth, self.rounding.u_a
        K = truth.inputs.K
        with np.errstate(over="ignore", invalid="ignore"):
            M = self.over_scope(-truth.log, -truth.windows) + np.abs(truth.inputs.igate)[..., None, :]
            C = self.over_scope(truth.condition, self._windows_of(truth.condition))
            e = gamma(self.length + LOG_SIGMOID_ULPS + EXP_ARGUMENT, u_a) * M + CONDITION_ULPS * u_a * C
            if self.contract.gates == "absolute":
                e = e + gamma(LOG_SIGMOID_ULPS, u_a) * self.length
            product = (u_a * (K + PRODUCT) + OPERANDS * self.rounding.u_m) * truth.product_sizes
            e = truth.reads.exponent(e, product)
            if truth.reads.normalised:
                e = e + 4 * (self.factors + 1) * u_a * self.reached[..., None]
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
        error = self.weighted(self.E_error, self.truth.E)
        return self.truth.reads.coefficient(error, self.truth.product_sizes)

    @cached_property
    def weight_error(self) -> Array | None:
        """The error of the weight w, (B, NH, 1, S); None where it does not round."""
        own = self.truth.gates.weight
        if self.contract.weight != "dt" or self.contract.gate != "dt" or own is None:
            return None
        ulps = CONDITION_ULPS * own.condition + LOG_SIGMOID_ULPS * (self.contract.gates == "absolute")
        return np.asarray(ulps * self.rounding.u_a)[..., None, :]

    def weighted(self, error: Array, E: Array) -> Array:
        """Return the error of w E, of that of E: |w| dE + dw (E + dE)."""
        found = np.abs(self.truth.weight) * error
        return found if self.weight_error is None else found + self.weight_error * (E + error)

    def _windows_of(self, terms: Array) -> Array:
        if not terms.any():
            return np.zeros_like(self.truth.windows)
        return window_sums(single(terms), wide=False).hi

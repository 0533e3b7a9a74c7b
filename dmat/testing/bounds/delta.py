"""The bounds on the error of a delta rule: docs/fused.md section 5, one function for each result.

Errors go from chunk to chunk through the exact linear maps between them: products of transitions are taken
before magnitudes. Every bound is absolute, in the unit of the entry it bounds, rounded up by EVALUATION.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from dmat.testing.bounds.delta_back import ChunkBack
from dmat.testing.bounds.delta_chunk import LOGIT_ULPS, Chunk, Given, Rates
from dmat.testing.bounds.delta_inverse import Inversion
from dmat.testing.bounds.formats import (
    EVALUATION,
    Bound,
    Format,
    FusedRounding,
    gamma,
)
from dmat.testing.bounds.gate_forms import GateErrors
from dmat.testing.bounds.heads import of_heads
from dmat.testing.bounds.latest import latest
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array, Mask
from dmat.testing.oracle.delta import DeltaPulled, DeltaTruth

# The parts of a chunk that no error of the state enters.
OWN = (
    *("G", "between", "from_start", "E", "eG", "to_end", "whole", "eG_plus", "to_end_plus", "whole_plus"),
    *("E_of_pairs", "q", "k", "beta", "A", "kk", "kk_plus", "T", "X", "F", "T_plus", "P", "qk", "qk_plus"),
    *("W", "rk", "kd", "qe", "reads"),
)


def beginning_with(chunk: Chunk, dS: Array) -> Chunk:
    """Return a chunk with this error of the state at its start, and with its own parts computed so far."""
    other = replace(chunk, dS=dS)
    vars(other).update({name: x for name, x in vars(chunk).items() if name in OWN})
    return other


def with_own_parts(chunks: Sequence[Chunk]) -> None:
    """Give chunks of one length their parts that do not depend on the state: computed for all at once."""
    names = [field.name for field in fields(Given) if field.name != "scale"]
    stacked = {name: np.stack([getattr(chunk.given, name) for chunk in chunks]) for name in names}
    first = chunks[0]
    given = Given(**stacked, scale=first.given.scale)
    every = Chunk(given, first.rates, first.inversion, first.dS)
    for name in OWN:
        found = getattr(every, name)
        for n, chunk in enumerate(chunks):
            vars(chunk)[name] = tuple(x[n] for x in found) if isinstance(found, tuple) else found[n]


@dataclass(frozen=True)
class DeltaBounds:
    """The bounds of one call. Their contract may differ from the truth's, which defines the true values.

    u_i: unit roundoff of operands inside the inversion, 0 where they are not narrower than the accumulator.
    """

    truth: DeltaTruth
    contract: FusedContract
    rounding: FusedRounding
    u_i: float = 0.0

    # Chunks

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The times of each chunk, (start, end). Chunks count from each call's or sequence's start."""
        S, begins = self.truth.S, (*self.truth.inputs.begins, self.truth.S)
        size = self.size_of_chunk
        starts = [s for n, end in pairwise(begins) for s in range(n, end, size)]
        return list(pairwise((*starts, S)))

    @property
    def size_of_chunk(self) -> int:
        """The number of rows of a chunk: 1 for steps, all rows where sums go over a prefix."""
        contract = self.contract
        if contract.error_scope == "prefix" or contract.factors == "one":
            return max(1, self.truth.S)
        return contract.chunk or 1

    @cached_property
    def rates(self) -> Rates:
        """How far a factor rounds."""
        K, contract = self.truth.inputs.q.shape[-1], self.contract
        normalised = contract.l2norm is not False
        steps, logit = self.size_of_chunk == 1, contract.beta_in == "logit"
        return Rates(self.rounding, K, steps, normalised, contract.gates == "absolute", logit)

    def given(self, start: int, end: int) -> Given:
        """Return what the chunk of these times is made of."""
        truth, inputs, times = self.truth, self.truth.inputs, np.s_[:, :, start:end]
        reset = start in truth.resets
        state = np.zeros_like(truth.first) if reset else truth.passed.states[:, :, start]

        def per_row(x: Any) -> Any:
            return x[times] if inputs.by_channel else x[times][..., None]

        return Given(
            truth.q[times],
            truth.k[times],
            inputs.v[times],
            truth.beta[times][..., None],
            truth.passed.written[times],
            per_row(truth.log),
            per_row(truth.condition),
            per_row(inputs.closed),
            state,
            truth.scale,
        )

    @property
    def inversion(self) -> Inversion:
        """How I + A is inverted."""
        return Inversion(self.rounding.u_a, self.u_i, self.contract.doubling)

    @cached_property
    def exact_chunks(self) -> list[Chunk]:
        """The chunks, each as if the kernel held the exact state at its start."""
        none = np.zeros_like(self.truth.first)
        chunks = [Chunk(self.given(*span), self.rates, self.inversion, none) for span in self.spans]
        for n in {chunk.n for chunk in chunks}:
            alike = [chunk for chunk in chunks if chunk.n == n]
            if len(alike) > 1:
                with_own_parts(alike)
        return chunks

    @cached_property
    def forward(self) -> tuple[list[Chunk], Array, Array]:
        """The chunks, the error of the output, (B, NH, S, V), and that of the last state.

        Where a magnitude overflows float64, the error is inf or NaN, and nothing is promised.
        """
        with np.errstate(all="ignore"):
            return self._forward()

    def _forward(self) -> tuple[list[Chunk], Array, Array]:
        zeros = np.zeros_like(self.truth.first)
        chunks, errors, dS = [], np.zeros_like(self.truth.inputs.v), zeros
        maps, own = _no_maps(zeros), zeros[None][:0]  # maps[m]: from the end of chunk m to here
        for (start, end), own_parts in zip(self.spans, self.exact_chunks, strict=True):
            if start in self.truth.resets:
                maps, own, dS = maps[:0], own[:0], zeros
            elif start and start in self.truth.inputs.begins:  # a state is stored, handed over, and loaded
                handed = 2 * self.rounding.handed.u * (np.abs(self.truth.passed.states[:, :, start]) + dS)
                own, dS = _added_to_last(own, handed), dS + handed
            chunk = beginning_with(own_parts, dS)
            read = (np.abs(chunk.reads @ maps) @ own).sum(0) if len(maps) else 0.0
            errors[:, :, start:end] = chunk.output_error + read
            maps = np.concatenate([chunk.passed_on(maps), _identity(zeros)[None]])
            own = np.concatenate([own, chunk.state_error[None]])
            dS = (np.abs(maps) @ own).sum(0)
            chunks.append(chunk)
        return chunks, errors, dS

    # What is lost to underflow, and where a number may overflow on the way

    @cached_property
    def lost(self) -> Array:
        """What a head may lose to underflow, (B, NH): S + K + 4 losses, times all that multiplies them.

        The entries of a row are lost one by one, so T, P and kd multiply by their largest sums of a row.
        """
        inputs, tiny = self.truth.inputs, max(self.rounding.tiny, self.rounding.handed.floor)
        q, k = (np.abs(x).max((-1, -2), initial=1.0) for x in (self.truth.q, self.truth.k))
        chunks = self.forward[0]
        ones = np.ones(inputs.q.shape[:2])
        sizes = [ones, *(x.max((-1, -2), initial=1.0) for c in chunks for x in (c.U_terms, c.S_plus))]
        inverse = [ones, *(chunk.T_plus.sum(-1).max(-1, initial=1.0) for chunk in chunks)]
        reads = [q * k, *(chunk.qk_plus.sum(-1).max(-1, initial=1.0) for chunk in chunks)]
        reads += [chunk.kd[1].sum(-2).max(-1, initial=1.0) for chunk in chunks]
        big = np.max(reads, axis=0) * k * np.max(sizes, axis=0) * np.max(inverse, axis=0)
        big = big * max(1.0, self.truth.scale)
        return np.asarray((inputs.S + inputs.q.shape[-1] + 4) * tiny * big * max(1, len(chunks)))

    @cached_property
    def overflows(self) -> Array:
        """Whether a number of a head may overflow on the way, (B, NH)."""
        largest = [np.zeros(self.truth.inputs.q.shape[:2])]
        largest += [chunk.largest for chunk in self.forward[0]]
        return np.asarray(np.max(largest, axis=0) >= self.rounding.largest / 2)

    def _stored(self, error: Array, value: Array, form: Format, lost: Array | None = None) -> Bound:
        """Return e (1 + u) + u |value| + lost + floor."""
        with np.errstate(all="ignore"):
            return self._stored_so(error, value, form, lost)

    def _stored_so(self, error: Array, value: Array, form: Format, lost: Array | None) -> Bound:
        more = of_heads(self.lost, error) if lost is None else lost
        bound = error * (1 + form.u) + form.u * np.abs(value) + more + form.floor
        free = ~np.isfinite(bound)
        overflows = self.overflows
        if error.shape[1] != overflows.shape[1]:  # of a key head
            overflows = self.truth.inputs.heads.gathered(overflows, np.any)
        overflow = of_heads(overflows, error) | (np.abs(value) + error >= form.largest / 2)
        return Bound(np.where(free, 0.0, bound) * EVALUATION, np.asarray(overflow | free), free)

    # Results

    def output(self) -> Bound:
        """Bound |computed - o|: e (1 + u) + u |o| + lost + tiny of its format."""
        return self._stored(self.forward[1], self.truth.o, self.rounding.output)

    def state(self) -> Bound:
        """Bound the error of the last state, which is stored in its own format."""
        return self._stored(self.forward[2], self.truth.last, self.rounding.handed)

    # Gradients

    def errors_back(self, pulled: DeltaPulled) -> dict[str, Array]:
        """Return the error of each gradient by the role of its input, before it is stored.

        "q" and "k" are those of the divided ones. "size": the magnitude of the gradient of l, in its shape.
        """
        truth, chunks = self.truth, self.forward[0]
        found = {"q": np.zeros_like(truth.q), "k": np.zeros_like(truth.k), "v": np.zeros_like(truth.inputs.v)}
        found |= {name: np.zeros_like(truth.beta) for name in ("b", "largest")}
        found |= {name: np.zeros_like(truth.log) for name in ("g", "size")}
        zeros = np.zeros_like(truth.first)
        maps, own, dH, H = _no_maps(zeros), zeros[None][:0], zeros, pulled.W_state
        for (start, end), chunk in reversed(list(zip(self.spans, chunks, strict=True))):
            times = np.s_[:, :, start:end]
            back = ChunkBack(chunk, np.abs(pulled.W[times]), H, dH)
            found["q"][times], found["k"][times], found["v"][times] = back.q[0], back.k[0], back.v
            found["b"][times] = back.b
            found["g"][times], found["size"][times] = (self._of_gates(x) for x in back.g)
            found["largest"][times] = back.largest[..., None]
            maps = np.concatenate([chunk.passed_back(maps), _identity(zeros)[None]])
            own = np.concatenate([own, back.state_error[None]])
            dH = (np.abs(maps) @ own).sum(0)
            H = self.gradient_before(pulled, start)
            if start in truth.resets:
                maps, own, dH, H = maps[:0], own[:0], zeros, zeros
            elif start and start in truth.inputs.begins:
                handed = 2 * self.rounding.handed.u * (np.abs(H) + dH)
                own, dH = _added_to_last(own, handed), dH + handed
        return {**found, "s": dH}

    def _of_gates(self, x: Array) -> Array:
        """Return what channels, (..., K), add to the gradient of a gate: the sum, unless each has a gate."""
        return x if self.truth.inputs.by_channel else np.asarray(x.sum(-1))

    def gradient_before(self, pulled: DeltaPulled, t: int) -> Array:
        """Return the exact gradient of the state before time t, (B, NH, K, V)."""
        truth, d = self.truth, pulled.adjoint
        if t == 0:
            return d["s"]
        after, k = d["after"][:, :, t], truth.k[:, :, t]
        erased = (truth.beta[:, :, t, None] * k)[..., None] * d["lambda"][:, :, t, None, :]
        return truth.factors[:, :, t] * (after - erased)

    @latest
    def of_gradients(self, pulled: DeltaPulled) -> dict[str, Bound]:
        """Return the bounds of all gradients by the name of their input."""
        with np.errstate(all="ignore"):
            return self._of_gradients(pulled)

    def _of_gradients(self, pulled: DeltaPulled) -> dict[str, Bound]:
        truth, u, e = self.truth, self.rounding, self.errors_back(pulled)
        values = pulled.gradients
        for name, x, hat in (("q", truth.inputs.q, truth.q), ("k", truth.inputs.k, truth.k)):
            e[name] = self._through_norm(x, hat, pulled.adjoint[name], e[name])
        gates = GateErrors(truth.gates, self.contract, u)
        reach = 1 + e["largest"].max(-1, initial=0.0)
        if not gates.plain:  # the gradient of l may underflow before it is multiplied by dl / dx
            e["g"] = e["g"] + 64 * of_heads(self.lost * reach, e["g"])
        of_log = e["g"], e["size"]
        e["g"] = np.where(truth.undefined, np.inf, gates.gate(*of_log)[0])
        if self.contract.beta_in == "logit":
            of_beta = np.abs(pulled.adjoint["b"]) + e["b"]  # autograd takes 1 - sigmoid of a rounded sigmoid
            e["b"] = truth.beta_rate * (e["b"] + LOGIT_ULPS * u.u_a * of_beta)
            e["b"] = e["b"] + 2 * u.u_a * self.contract.beta_max * of_beta
        forms = dict.fromkeys("qkv", u.products) | {"g": u.gates, "b": u.gates, "s": u.handed}
        allowed = {}
        for name, form in forms.items():
            lost, over = self.lost * reach, 2 * reach >= self.rounding.largest
            if name in "qk":
                lost = lost * self._magnified_by_norm(name)
                e[name], lost, over = self._of_key_heads(name, pulled, e[name], lost, over)
            bound = self._stored(e[name], values[name], form, 64 * of_heads(lost, e[name]))
            over = of_heads(over, e[name])
            allowed[name] = Bound(bound.bound, np.asarray(bound.overflow | over), bound.free)
        for name in self.contract.parameters:
            allowed[name] = self._of_parameter(name, of_log, values[name], reach)
        return allowed

    def _of_parameter(self, name: str, of_log: tuple[Array, Array], value: Array, reach: Array) -> Bound:
        """Bound the gradient of A_log or dt_bias, a sum over batches and times: (1, NH, 1), or (1, NH, K)."""
        inputs, u, (e, size) = self.truth.inputs, self.rounding, of_log
        gates = GateErrors(self.truth.gates, self.contract, u)
        if name == "dt_bias":
            e, terms = gates.gate(e, size)[0], gates.size_of_bias(size, None)
        else:
            e, terms = gates.of_A(e, size)
        e, terms, A = (inputs.of_parameter(name, x) for x in (e, terms, size))
        e = e + gamma(inputs.fgate.size, u.u_a) * (terms + e)
        A = A + terms
        lost = 64 * inputs.S * (self.lost * reach).sum(0, keepdims=True)[..., None] * (1 + A)
        bound = e * (1 + u.parameters.u) + u.parameters.u * np.abs(value) + lost + u.parameters.floor
        free = ~np.isfinite(bound)
        heads: Mask = np.asarray(self.overflows, dtype=bool) | np.asarray(2 * reach >= u.largest)
        large: Mask = np.asarray(2 * A >= u.largest / 2)
        over = large | np.asarray(heads.any(0))[None, :, None]
        return Bound(np.where(free, 0.0, bound) * EVALUATION, np.asarray(over | free), free)

    def parameter(self, name: str, pulled: DeltaPulled) -> Bound:
        """Bound the gradient of A_log or dt_bias."""
        return self.of_gradients(pulled)[name]

    def _magnified_by_norm(self, name: str) -> Array:
        """Return by how much the division by a norm magnifies what is lost before it, at least 1, (B, NH)."""
        root = self.truth.root(self.truth.inputs.q if name == "q" else self.truth.inputs.k)[..., 0]
        return np.asarray(np.divide(1.0, root, out=np.ones_like(root), where=root > 0).max(-1, initial=1.0))

    def _of_key_heads(
        self, name: str, pulled: DeltaPulled, error: Array, lost: Array, over: Array
    ) -> tuple[Array, Array, Array]:
        """Return error, loss and overflow of the gradient of a key head, which may be stored part by part."""
        heads, u = self.truth.inputs.heads, self.rounding
        if heads.group == 1:
            return error, lost, over
        size = np.abs(pulled.of_keys[name]) + error
        error = error + u.products.u * size + u.products.floor + gamma(heads.group, u.u_a) * size
        return heads.gathered(error), heads.gathered(lost), heads.gathered(over, np.any)

    def _through_norm(self, x: Array, hat: Array, d: Array, error: Array) -> Array:
        """Return the error of the gradient of k or q from that of the divided one, whose exact value is d."""
        if self.contract.l2norm is False:
            return error
        root, K = self.truth.root(x), x.shape[-1]

        def along(y: Array) -> Array:
            return np.asarray(np.abs(hat) * (np.abs(hat) * y).sum(-1, keepdims=True))

        relative = (2 * K + 16) * self.rounding.u_a + 6 * self.rounding.u_m
        size = np.abs(d) + error
        with np.errstate(divide="ignore"):
            return np.asarray((error + along(error) + relative * (size + 2 * along(size))) / root)

    def product(self, name: str, pulled: DeltaPulled) -> Bound:
        """Bound the gradient of q, k or v."""
        return self.of_gradients(pulled)[name]

    def gate(self, pulled: DeltaPulled) -> Bound:
        """Bound the gradient of l, or of f: reverse sums within a chunk, whose terms may cancel."""
        return self.of_gradients(pulled)["g"]

    def beta(self, pulled: DeltaPulled) -> Bound:
        """Bound the gradient of beta."""
        return self.of_gradients(pulled)["b"]

    def first_state(self, pulled: DeltaPulled) -> Bound:
        """Bound the gradient of S_0."""
        return self.of_gradients(pulled)["s"]


def _identity(state: Array) -> Array:
    """Return an identity a head, (B, NH, K, K)."""
    K = state.shape[-2]
    return np.broadcast_to(np.eye(K), (*state.shape[:2], K, K))


def _no_maps(state: Array) -> Array:
    """Return no map, (0, B, NH, K, K)."""
    return _identity(state)[None][:0]


def _added_to_last(own: Array, more: Array) -> Array:
    """Return the errors with `more` added to those of the last chunk."""
    return np.concatenate([own[:-1], (own[-1] + more)[None]])


RESULTS = (DeltaBounds.output, DeltaBounds.state)
GRADIENT_BOUNDS = (DeltaBounds.product, DeltaBounds.gate, DeltaBounds.beta, DeltaBounds.parameter)

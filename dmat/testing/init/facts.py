"""What more calls show of a reading: sizes, lengths, dtypes, gradients, states and packed sequences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmat.testing.contract import FusedContract
from dmat.testing.init.binding import NEAR, distance, first_line, stored
from dmat.testing.init.readings import Sizes, Values, output, truth
from dmat.testing.init.search import FAR, Fit
from dmat.testing.init.signature import Signature
from dmat.testing.oracle.delta import DeltaPulled
from dmat.testing.oracle.fused import Truth
from dmat.testing.verdict.finding import as_array

HALVES = ("bfloat16", "float16")


@dataclass
class Facts:
    """The lines of a contract, as code and what was seen; questions; and how the adapter calls the function.

    state: the keyword of a state and whether it must be given. last: the flag that asks for the last state.
    """

    fields: dict[str, tuple[str, str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    state: str | None = None
    needs_state: bool = False
    knobs: dict[str, Any] = field(default_factory=dict)
    state_index: int = 1

    def add(self, name: str, value: object, seen: str) -> None:
        """Add a field of the contract."""
        self.fields[name] = repr(value).replace("'", '"'), seen


@dataclass(frozen=True)
class Prober:
    """Calls a function under one reading, and compares with the true sums."""

    fit: Fit
    contract: FusedContract

    def off(
        self, sizes: Sizes, *, seed: int = 2, dtype: str = "float32", gates: str = "", **more: Any
    ) -> float:
        """Return how far off a call is. Raises what the function raises."""
        own, wide = getattr(torch, dtype), getattr(torch, gates or dtype)
        dtypes = {role: wide if role in ("g", "i", "A", "A_log", "dt_bias") else own for role in ROLES}
        values = stored(self.fit.values(sizes, seed, plain=dtype == "float16"), dtypes)
        found = self.fit.binding.output(values, sizes, dtypes, **more)
        return distance(found, output(self.contract, values))

    def right(self, sizes: Sizes, **more: Any) -> str:
        """Return "" if a call of these sizes is right, else what it did."""
        try:
            off = self.off(sizes, **more)
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever a function may raise for a call that it does not take
            return f"raised {first_line(error)}"
        return "" if off <= NEAR else f"is off by {off:.1g}"


ROLES = ("q", "k", "v", "i", "g", "b", "A_log", "A", "dt_bias", "D", "z")


def facts(fit: Fit, signature: Signature) -> Facts:
    """Return what calls show under this reading."""
    found, prober = Facts(), Prober(fit, fit.contract)
    found.knobs = dict(fit.binding.knobs)
    _sizes(prober, found)
    _lengths(prober, found)
    _dtypes(prober, found)
    _gradient(prober, found)
    _states(prober, signature, found)
    _packed(prober, signature, found)
    for name in (left for left in signature.left if "initial" in left or "state" in left):
        found.questions.append(f"states: {name} was left at its default; is it a part of a state?")
    if "mask" in signature.knobs:
        found.questions.append(f"mask: {signature.knobs['mask']} was left out; is it a padding mask, (B, S)?")
    return found


def confirmed(fit: Fit) -> str:
    """Return "" if the reading also holds for other sizes and values; else where it does not."""
    prober, base = Prober(fit, fit.contract), fit.sizes
    other = replace(base, B=1, NH=5, S=2 * base.S, K=16, V=16)
    wrong = prober.right(other, seed=7)
    return f"with K = 16 and NH = 5 the call {wrong}" if wrong else ""


def _sizes(prober: Prober, found: Facts) -> None:
    base, square = prober.fit.sizes, prober.fit.sizes.V == prober.fit.sizes.K
    if square:
        wrong = prober.right(replace(base, V=base.K + 2)) and prober.right(replace(base, V=2 * base.K))
        if wrong:
            found.add("V_equals_K", True, f"with V = {2 * base.K}, K = {base.K} the call {wrong}")
    tried = {K: prober.right(replace(base, K=K, V=K if square else base.V)) for K in (1, 4, 16, 64)}
    taken = tuple(K for K in (1, 4, 16) if not tried[K])
    if taken != (1, 4, 16):
        K = next(K for K in (1, 4, 16) if tried[K])
        found.add("K", taken, f"with K = {K} the call {tried[K]}")
    if not square:
        columns = next((V for V in (1, 4, 16, 64) if not prober.right(replace(base, V=V))), None)
        if columns is None:
            found.questions.append("V: which sizes of v does it take?")
        elif columns > 1:
            found.add("V", columns, f"with V = 1 the call {prober.right(replace(base, V=1))}")


def _lengths(prober: Prober, found: Facts) -> None:
    base = prober.fit.sizes
    chunk = prober.fit.binding.knobs.get(prober.fit.binding.chunk or "")
    wrong = prober.right(replace(base, S=base.S - 1)) or prober.right(replace(base, S=1))
    if not wrong:
        return
    step = chunk or next((n for n in (2, 4, 8, 16, 32, 64) if not prober.right(replace(base, S=n))), None)
    if step is None or prober.right(replace(base, S=3 * step)):
        found.questions.append(f"lengths: with S = {base.S - 1} the call {wrong}; which S does it take?")
        return
    found.add(
        "seq_multiple_of", step, f"with S = {base.S - 1} the call {wrong}; with S = {3 * step} it is right"
    )


def _dtypes(prober: Prober, found: Facts) -> None:
    """Find the dtypes that it takes, and in which its outputs have the rounding of one number alone."""
    kept, seen, returned, wide = ["float32"], [f"float32 within {prober.fit.distance:.1g}"], set(), False
    for dtype in HALVES:
        tried = [_half(prober, dtype, gates) for gates in ("", "float32")]
        good = [one for one in tried if one.right]
        if good:
            kept.append(dtype)
            seen.append(f"{dtype} within {good[0].off:.1g}")
            wide |= good[0] is tried[1]
            returned.add(good[0].returned)
            if good[0].returned not in (dtype, "float32"):
                found.questions.append(f"output_dtype: of {dtype} it returned {good[0].returned}")
        elif tried[0].error and tried[1].error:
            seen.append(f"{dtype} raised {tried[1].error}")
        else:
            off = min(one.off for one in tried)
            found.questions.append(
                f"dtypes: {dtype} is taken but off by {off:.1g}, more than an output rounds: does it"
                f" multiply (multiplies_in) or sum (accumulates_in) in {dtype}?"
            )
    found.add("dtypes", tuple(kept), ", ".join(seen))
    if wide:
        found.add("gate_dtype", "float32", "with gates of a half type it is not right")
    if returned == {"float32"}:
        found.add("output_dtype", "float32", f"seen for {' and '.join(kept[1:])}")
    elif "float32" in returned:
        found.questions.append("output_dtype: of one half type it returned float32, of the other not")


@dataclass(frozen=True)
class Half:
    """A call in a half type: how far off it is, and the dtype that it returned; or the error it raised."""

    dtype: str
    off: float = float("inf")
    returned: str = ""
    error: str = ""

    @property
    def right(self) -> bool:
        """Whether the output is off by no more than its own rounding."""
        rounding = torch.finfo(getattr(torch, self.returned)).eps / 2 if self.returned else 0.0
        return self.off <= rounding + NEAR


def _half(prober: Prober, dtype: str, gates: str) -> Half:
    """Call in a half type with three draws. gates: the dtype of the gates; "": the same."""
    try:
        off = max(prober.off(prober.fit.sizes, seed=seed, dtype=dtype, gates=gates) for seed in (2, 3, 4))
        return Half(dtype, off, _returned(prober, dtype, gates))
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever a function may raise for a dtype that it does not take
        return Half(dtype, error=first_line(error))


def _returned(prober: Prober, dtype: str, gates: str) -> str:
    """Return the dtype of an output."""
    own, wide = getattr(torch, dtype), getattr(torch, gates or dtype)
    dtypes = {role: wide if role in ("g", "i", "A", "A_log", "dt_bias") else own for role in ROLES}
    fit = prober.fit
    tensors = fit.binding.arguments(fit.values(fit.sizes, 2), dtypes)
    with torch.no_grad():
        return str(fit.binding.taken(fit.binding.call(tensors), fit.sizes).dtype).removeprefix("torch.")


def _gradient(prober: Prober, found: Facts) -> None:
    """Find whether it has gradients, and whether they hold the normaliser constant."""
    fit = prober.fit
    values = stored(fit.values(fit.sizes, 3, plain=True), torch.float32)
    W = torch.randn(
        fit.sizes.B, fit.sizes.NH, fit.sizes.S, fit.sizes.V, generator=torch.Generator().manual_seed(4)
    )
    try:
        pulled = _pulled(prober, values, W)
    except (Exception, SystemExit) as error:
        found.add("gradient", "none", f"its backward raised {first_line(error)}")
        return
    if pulled is None:
        found.add("gradient", "none", "its output requires no gradient")
        return
    forms = ("full", "truncated") if fit.contract.reads == "mlstm" else ("full",)
    off = {}
    for form in forms:
        true = _true_gradients(replace(fit.contract, gradient=form), values, W)
        off[form] = max(distance(pulled[name], true[name]) for name in pulled if name in true)
    if off["full"] > NEAR and off.get("truncated", 1.0) <= NEAR < FAR < off["full"]:
        found.add(
            "gradient",
            "truncated",
            f"within {off['truncated']:.1g} of it; the full one is {off['full']:.1g} off",
        )
    elif off["full"] > NEAR:
        found.questions.append(
            f"gradient: that of q, k, v or the gate is {off['full']:.1g} off; is it a bug?"
        )


def _pulled(prober: Prober, values: Values, W: Tensor) -> Mapping[str, np.ndarray[Any, Any]] | None:
    """Return the gradients of q, k, v, as (B, NH, S, n); None if the output requires none."""
    binding = prober.fit.binding
    tensors = {name: x.requires_grad_() for name, x in binding.arguments(values, torch.float32).items()}
    o = binding.taken(binding.call(tensors), prober.fit.sizes)
    if not o.requires_grad:
        return None
    names = [name for name in ("q", "k", "v") if name in tensors]
    grads = torch.autograd.grad(o, [tensors[name] for name in names], W.to(o))
    swap = binding.layout == "BSHD"
    return {name: as_array(x.transpose(1, 2) if swap else x) for name, x in zip(names, grads, strict=True)}


def _true_gradients(contract: FusedContract, values: Values, W: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    own, cotangent = truth(contract, values), W.double().numpy()
    if isinstance(own, Truth):
        pulled = own.pulled(cotangent)
        return {"q": pulled.dq, "k": pulled.dk, "v": pulled.dv}
    return DeltaPulled(own, cotangent, np.zeros_like(own.last)).gradients


def _states(prober: Prober, signature: Signature, found: Facts) -> None:
    """Find whether a sequence in two calls, with a state handed over, is the sequence in one call."""
    name = signature.knobs.get("state")
    if name is None:
        return
    flags: list[dict[str, Any]] = [{signature.knobs["last"]: True}] if "last" in signature.knobs else [{}]
    seen = ""
    for more, place in itertools.product(flags, (0, 1, 2)):
        if place == (prober.fit.binding.index or 0):
            continue
        try:
            off = _handed_over(prober, name, place, more)
        except (Exception, SystemExit) as error:
            seen = seen or f"raised {first_line(error)}"
            continue
        if off <= NEAR:
            found.state, found.state_index, found.needs_state = name, place, "state" in signature.required
            found.knobs |= more
            found.add("states", name, f"two calls, the state handed over, are one call within {off:.1g}")
            return
        seen = f"two calls are {off:.1g} off one call"
    found.questions.append(f"states: {name} was left out; {seen}")


def _handed_over(prober: Prober, name: str, place: int, more: Mapping[str, Any]) -> float:
    """Return how far off two calls are, with the state at this place of the first result handed over."""
    fit, sizes = prober.fit, prober.fit.sizes
    values, half = stored(fit.values(sizes, 5), torch.float32), sizes.S // 2
    part = replace(sizes, S=half)
    binding = replace(fit.binding, index=0 if fit.binding.index is None else fit.binding.index)
    with torch.no_grad():
        first = binding.call(binding.arguments(_cut(values, 0, half), torch.float32), **more)
        state = first[place]
        if not isinstance(state, Tensor):
            raise ValueError("no tensor of a state came back")
        second = binding.call(
            binding.arguments(_cut(values, half, sizes.S), torch.float32), **{**more, name: state}
        )
        o = torch.cat([binding.taken(first, part), binding.taken(second, part)], 2)
    return distance(as_array(o), output(prober.contract, values))


def _cut(values: Values, start: int, end: int) -> dict[str, Tensor]:
    return {name: x[:, :, start:end] if x.ndim > 2 else x for name, x in values.items()}


def _packed(prober: Prober, signature: Signature, found: Facts) -> None:
    """Find whether sequences that are packed into one are each as if alone."""
    name = signature.knobs.get("packed")
    if name is None:
        return
    fit, sizes = prober.fit, replace(prober.fit.sizes, B=1)
    values, ends = stored(fit.values(sizes, 6), torch.float32), (0, sizes.S // 4 + 1, sizes.S)
    given: dict[str, Any] = {name: torch.tensor(ends, device=fit.binding.device)}
    try:
        o = fit.binding.output(values, sizes, **given)
    except (Exception, SystemExit) as error:
        found.questions.append(f"packed: a call with {name} raised {first_line(error)}")
        return
    true = [output(prober.contract, _cut(values, *span)) for span in itertools.pairwise(ends)]
    off = distance(o, np.concatenate(true, 2))
    if off > NEAR:
        found.questions.append(f"packed: a call with {name} is {off:.1g} off")
        return
    found.add("packed", name, f"two sequences in one call are each as if alone, within {off:.1g}")

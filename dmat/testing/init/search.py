"""Which call and which contract agree with the true sums: found only if no other reading does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmat.testing.contract import FusedContract
from dmat.testing.init.binding import NEAR, Binding, Unfit, described, distance, first_line, stored
from dmat.testing.init.readings import Sizes, Values, drawn, output, readings
from dmat.testing.init.signature import Signature
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array

CHUNKS = (4, 16, 64, None)  # the chunk sizes that are tried; None: the function's own
SIZES = (Sizes(), Sizes(V=4), Sizes(NH=2, S=64, K=16, V=16))
FAR = 2.0**-8  # a reading between NEAR and FAR is neither right nor wrong
F32 = torch.float32


@dataclass(frozen=True)
class Fit:
    """A reading that agrees with a call, and how far off the others are.

    distance: its own. rival: that of the nearest other reading of this call. number: how many there are.
    positive: whether q and k were at least 0.
    """

    binding: Binding
    contract: FusedContract
    sizes: Sizes
    gates: str
    by_channel: bool
    distance: float
    rival: float
    number: int
    seen: str
    positive: bool = False

    def values(self, sizes: Sizes, seed: int, *, plain: bool = False) -> Values:
        """Return values of this reading's domain."""
        values = drawn(sizes, self.gates, by_channel=self.by_channel, seed=seed, plain=plain)
        return positive(values) if self.positive else values


@dataclass
class Outcome:
    """What the search has seen: the fits, the last error of a call, the shapes of results, close readings."""

    fits: list[Fit]
    error: str = ""
    shapes: str = ""
    close: str = ""


def positive(values: Values) -> Values:
    """Return the values with q and k at least 0."""
    return {**values, "q": values["q"].abs(), "k": values["k"].abs()}


def search(fn: Callable[..., Any], signature: Signature, device: str) -> Outcome:
    """Return the fits of a function. More than one fit: the calls do not tell which is right."""
    outcome = Outcome([])
    for sizes, sign in itertools.product(SIZES, (False, True)):
        for gates in ("below 0", "0 to 1"):
            _search(fn, signature, device, (sizes, gates, sign), outcome)
            if outcome.fits:
                return outcome
    return outcome


def _search(
    fn: Callable[..., Any],
    signature: Signature,
    device: str,
    case: tuple[Sizes, str, bool],
    outcome: Outcome,
) -> None:
    """Add the fits of one set of values to the outcome."""
    sizes, gates, sign = case
    known: dict[tuple[frozenset[str], bool], list[tuple[FusedContract, Array]]] = {}
    number = None
    for roles in signature.assignments():
        if number is not None and len(roles) < number:
            return  # fewer of the optional tensors
        for by_channel in (False, True) if "g" in roles else (False,):
            values = drawn(sizes, gates, by_channel=by_channel, seed=1)
            values = stored(positive(values) if sign else values, F32)
            key = frozenset(roles), by_channel
            for binding in bindings(fn, signature, roles, device, by_channel=by_channel):
                answer = _answer(binding, values, sizes, outcome)
                if answer is None:
                    continue
                if key not in known:
                    known[key] = _truths(set(roles), gates, values, by_channel=by_channel, sign=sign)
                for contract, own, rival in _agreeing(answer, known[key], outcome):
                    found = len(known[key]), answer.shapes, sign
                    fit = Fit(answer.binding, contract, sizes, gates, by_channel, own, rival, *found)
                    outcome.fits.append(fit)
                    number = len(roles)


def bindings(
    fn: Callable[..., Any], signature: Signature, roles: dict[str, str], device: str, *, by_channel: bool
) -> Iterator[Binding]:
    """Yield the ways to call fn with these roles, one for each chunk size too."""
    knobs = {}
    for name, value in (
        ("scale", 1.0),
        ("eps", 0.0),
        ("softplus", True),
        ("state", None),
        ("packed", None),
        ("last", False),
    ):
        if name in signature.required or (name in ("eps", "softplus") and name in signature.knobs):
            knobs[signature.knobs[name]] = value
    gates = roles.keys() & ({"i", "b"} if by_channel else {"i", "g", "b"})
    for layout, column in itertools.product(("BHSD", "BSHD"), (False, True) if gates else (False,)):
        yield Binding(fn, roles, layout, column, knobs, chunk=signature.knobs.get("chunk"), device=device)


@dataclass(frozen=True)
class Answer:
    """What a call returned: the output, the call as it was made, and the shapes of the result."""

    o: Array
    binding: Binding
    shapes: str


def _answer(binding: Binding, values: Values, sizes: Sizes, outcome: Outcome) -> Answer | None:
    """Return what a call returns, with the first chunk size that it takes; None if it has no output."""
    for size in CHUNKS if binding.chunk else (None,):
        knobs = {**binding.knobs} | ({binding.chunk: size} if binding.chunk and size else {})
        own = replace(binding, knobs=knobs)
        try:
            with torch.no_grad():
                result = own.call(own.arguments(values, F32))
        except (
            Exception,
            SystemExit,
        ) as error:  # whatever a function may raise for a call that it does not take
            outcome.error = first_line(error)
            continue
        outcome.shapes = described(result)
        places = range(len(result)) if isinstance(result, (tuple, list)) else (None,)
        for index in places:
            own = replace(own, index=index)
            try:
                o = own.taken(result, sizes)
            except Unfit:
                continue
            return Answer(as_array(o), own, outcome.shapes)
        return None
    return None


def _truths(
    roles: set[str], gates: str, values: Values, *, by_channel: bool, sign: bool
) -> list[tuple[FusedContract, Array]]:
    """Return every reading and its true output."""
    every = readings(roles, gates, by_channel=by_channel)
    return [(one, output(one, values)) for one in every if not sign or one.reads == "normalised"]


def _agreeing(
    answer: Answer, known: list[tuple[FusedContract, Array]], outcome: Outcome
) -> Iterator[tuple[FusedContract, float, float]]:
    """Yield each reading that agrees with the output, its distance, and that of the nearest other."""
    far = sorted((distance(answer.o, true), n) for n, (_, true) in enumerate(known))
    for place, (own, n) in enumerate(far):
        if own > NEAR:
            if own <= FAR and not outcome.close:
                outcome.close = f'reads="{known[n][0].reads}" is within {own:.1g}'
            return
        others = [d for at, (d, _) in enumerate(far) if at != place]
        yield known[n][0], own, min(others, default=float("inf"))

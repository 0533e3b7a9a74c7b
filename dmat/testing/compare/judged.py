"""One kernel on one case: its results, their errors, and how much of its bounds they take.

A result is judged by the kernel's own contract, which counts, and measured by the strictest contract: errors
of two kernels are compared in units of the latter, whatever the two promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from dmat.strategies.cases.fused import sequence_ends
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED, Contract, FusedContract
from dmat.testing.kernel.dtilde import GATES
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Expected, LawBroken
from dmat.testing.verdict.require import errors, require_within

ROUNDING = ("error_scope", "accumulates_in", "gates", "multiplies_in", "inverse_in", "factors", "grad_scope")
PACKED, SPLIT = "o packed", "o split"  # of packed sequences; of two calls with the state handed over
OUTPUTS = (
    "D~",
    "o",
    "S",
    PACKED,
    SPLIT,
)  # a truth is kept of these: it says whether two contracts mean one operator


@dataclass(frozen=True)
class Judged:
    """One result of one case.

    values, errors, slack: float64, of all entries; an error of NaN: the entry is not judged. dtype: that of
    the result. truth: the true values. worst: the error over the bound of the kernel's own contract.
    strictest: that over the bound of the strictest one. over: the lines of the finding, where the result is
    over its bound.
    """

    values: Array
    errors: Array
    slack: Array
    truth: Array
    dtype: str
    worst: float | None
    strictest: float
    over: str = ""


Made = tuple[str, Array, str, Expected, Expected]  # name, values, dtype, and two expected values
Make = Callable[["Judge", Case], Iterator[Made]]


@dataclass
class Judge:
    """Judges what a kernel gives on a case, by its own contract and by the strictest."""

    subject: Subject

    @cached_property
    def strict(self) -> Subject:
        """The subject of the same kernel under the strictest contract of its operator."""
        own = self.subject.implementation.contract
        defaults = {f.name: f.default for f in fields(own) if f.name in ROUNDING}
        strictest: Contract | FusedContract = replace(own, **defaults)  # type: ignore[arg-type]
        return replace(self.subject, implementation=replace(self.subject.implementation, contract=strictest))

    def results(self, case: Case) -> Iterator[tuple[str, Judged | str]]:
        """Yield each result of the case by its printed name; what was raised instead of it, as a text."""
        made: Make = _of_dtilde
        if self.subject.kind == FUSED:
            made = _packed if "t" in case else _split if "cut" in case else _of_fused
        try:
            for name, values, dtype, own, strict in made(self, case):
                yield name, self._judged(values, dtype, own, strict)
        except LawBroken as broken:
            yield self._unmade(broken, made), broken.finding.computed

    def _unmade(self, broken: LawBroken, made: Make) -> str:
        """Return the name of what a call that raised should have given."""
        if broken.finding.quantity == "gradients":
            return "gradients"
        names: dict[Make, str] = {_packed: PACKED, _split: SPLIT, _of_dtilde: "D~"}
        return names.get(made, "o")

    def _judged(self, values: Array, dtype: str, own: Expected, strict: Expected) -> Judged:
        over, worst = "", None
        try:
            worst = require_within(values, own)
        except LawBroken as broken:
            finding, over = broken.finding, "\n".join(broken.finding.lines())
            if finding.error is not None and finding.allowed:
                worst = finding.error / finding.allowed
        ratio, error = errors(values, strict)
        largest = float(np.nan_to_num(ratio, nan=0.0).max(initial=0.0))
        error = np.where(np.isnan(ratio), np.nan, error)
        truth = np.where(own.known, own.value.hi, np.nan)
        return Judged(values, error, own.slack + strict.slack, truth, dtype, worst, largest, over)


def _name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _of_dtilde(judge: Judge, case: Case) -> Iterator[Made]:
    """Yield D~ and both gradients of a case; D~ alone where the kernel has no gradients."""
    subject, strict = cast(DtildeSubject, judge.subject), cast(DtildeSubject, judge.strict)
    gates, gradients = case["gates"], None
    if subject.contract.has_gradients:
        try:
            gradients = subject.gradients(gates, case["cotangent"])
        except LawBroken as failed:
            yield from _forward_alone(judge, subject.forward(gates))
            raise LawBroken(replace(failed.finding, quantity="gradients")) from failed
    yield from _forward_alone(judge, gradients.run if gradients else subject.forward(gates))
    for name in GATES if gradients else ():
        assert gradients is not None
        own, other = (one.gradient_must_be(gradients, name) for one in (subject, strict))
        values, dtype = gradients.of(name), _name(gradients.gradients[name])
        yield subject.gradient_name(name), values, dtype, own, other


def _forward_alone(judge: Judge, run: Any) -> Iterator[Made]:
    """Yield the outputs of a forward call."""
    both = [one.expected_outputs(run) for one in (judge.subject, judge.strict)]
    for name, tensor in run.outputs.items():
        yield name, run.of(name), _name(tensor), both[0][name], both[1][name]


def _of_fused(judge: Judge, case: Case) -> Iterator[Made]:
    """Yield the output of a case, the last state of a delta rule, and the gradients that a law judges."""
    subject, strict = cast(FusedSubject, judge.subject), cast(FusedSubject, judge.strict)
    gates, qkv, gradients = case["gates"], case["qkv"], None
    if subject.contract.has_gradients and subject.defines_gradients(qkv):
        try:
            gradients = subject.pull(gates, qkv)
        except LawBroken as failed:
            yield from _forward_alone(judge, subject.run(gates, qkv))
            raise LawBroken(replace(failed.finding, quantity="gradients")) from failed
    yield from _forward_alone(judge, gradients.run if gradients else subject.run(gates, qkv))
    if gradients is None:
        return
    pulled = gradients.pulled
    wide = strict.bounds_under(pulled.truth, strict.contract, strict.own_rounding)
    for name in subject.distinct_values(gradients.tensors):
        if qkv.kind == "dense" and name in ("g", "i"):
            continue  # laws judge the gradients of gates where one term is one entry of D~
        own = subject.gradient_of(pulled, name, gradients.bounds)
        other = strict.gradient_of(pulled, name, wide)
        yield subject.gradient_name(name), gradients.of(name), _name(gradients.tensors[name]), own, other


def _packed(judge: Judge, case: Case) -> Iterator[Made]:
    """Yield the output of packed sequences."""
    subject, strict = cast(FusedSubject, judge.subject), cast(FusedSubject, judge.strict)
    S = case["gates"].shape[-1]
    ends, inputs = sequence_ends(S, case["cut"], case["t"]), subject.inputs(case["gates"], case["qkv"])
    call_inputs = subject.read_inputs(inputs, tuple(n for n in ends if n < S), packed=True)
    output = subject.call_packed(inputs, ends)
    own, other = (one.expected_of(call_inputs) for one in (subject, strict))
    yield PACKED, subject.read(output), _name(output), own, other


def _split(judge: Judge, case: Case) -> Iterator[Made]:
    """Yield the output of two calls, with the state handed over at the cut."""
    subject, strict = cast(FusedSubject, judge.subject), cast(FusedSubject, judge.strict)
    cut, inputs = case["cut"], subject.inputs(case["gates"], case["qkv"])
    call_inputs, S = subject.read_inputs(inputs, (0, cut)), case["gates"].shape[-1]
    first, state = subject.call_with_state(inputs.part(0, cut), inputs.s)
    second, _ = subject.call_with_state(inputs.part(cut, S), state)
    own, other = (one.expected_of(call_inputs, state=state) for one in (subject, strict))
    yield SPLIT, subject.read(torch.cat((first, second), 2)), _name(first), own, other

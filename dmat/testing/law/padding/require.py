"""What the law of padding masks requires: outputs, gradients and states of real tokens are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.backgrounds import Constant
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import FusedGradients, Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.padding.call import OPEN, Padded, row_of
from dmat.testing.verdict.finding import Expected, LawBroken
from dmat.testing.verdict.require import require_within


def require_outputs(call: Padded, o: Tensor) -> None:
    """Require the output of real tokens to be within its bound."""
    for b, times in call.rows():
        expected = call.subject.expected_of(call.inputs_of(b, times))
        part = expected.part((slice(None), slice(None), times, slice(None)))
        call.subject.observe(
            require_within(call.subject.read(o[b : b + 1, :, times]), part.noted(call.note(b)))
        )


def require_gradients(call: Padded) -> None:
    """Require the gradients of real tokens to be within their bounds; no cotangent reaches padded places.

    Parameters of gates have no times and are not judged.
    """
    subject = call.subject
    W = subject.cotangent(call.clean, call.qkv)
    W = torch.where(call.mask[:, None, :, None], W, torch.zeros_like(W))
    whole = subject.read_inputs(call.judged)
    plain = replace(call.qkv, pull=0)  # no cotangent of a last state
    gradients = subject.pull_of(call.given, plain, W=W, call_inputs=whole, more=call.more)
    for b, times in call.rows():
        inputs = call.inputs_of(b, times)
        run = subject.run_from(inputs, {"o": gradients.run.output[b : b + 1]})
        pulled, bounds = subject.true_gradients(run, {"o": gradients.W[b : b + 1]})
        for name in subject.distinct_values(gradients.tensors):
            if name not in (*PARAMETERS, "s"):
                must = subject.gradient_of(pulled, name, bounds)
                _require_row(subject, gradients, name, must, (b, times), call.note(b))


def _require_row(
    subject: FusedSubject,
    gradients: FusedGradients,
    name: str,
    must: Expected,
    where: tuple[int, slice],
    note: str,
) -> None:
    b, times = where
    further = [slice(None)] * (len(must.kind.shape) - 3)
    part = must.part((slice(None), slice(None), times, *further)).noted(note)
    values = gradients.of(name)[b : b + 1]
    subject.observe(require_within(values[(slice(None), slice(None), times, *further)], part))


# The state that a padded call returns, read by a call that goes on from it


def knows_states(subject: FusedSubject) -> bool:
    """Whether tokens that write and decay nothing can be told: in a softmax or under fixed gates none are."""
    contract = subject.contract
    decaying = contract.gate == "fixed" and not contract.has_open_gates
    return contract.states is not None and not decaying and subject.reads.scaling.multiplies


def require_state(call: Padded) -> None:
    """Require a call that goes on from the state of a padded call to give what real tokens alone would.

    A kernel counts its chunks from the first place or from the first real token: one of two bounds holds.
    """
    subject = call.subject
    _, state = subject.call_with_state(call.given, None, **call.more)
    output, _ = subject.call_with_state(call.clean, state)
    for b, (left, right) in enumerate(call.pads):
        values = subject.read(output[b : b + 1])
        padded = call.note(b).partition(";")[0]
        note = f"of a call that goes on from the state of {padded}; t counts from its start"
        try:
            _require_going_on(subject, values, _nulled(call, b, right), call.S, state, note)
        except LawBroken:
            alone = row_of(call.clean, b).part(left, max(call.S - right, left))
            both = [alone, row_of(call.clean, b)]
            _require_going_on(subject, values, both, max(call.S - right - left, 0), state, note)


def _require_going_on(
    subject: FusedSubject, values: object, parts: Sequence[Inputs], cut: int, state: object, note: str
) -> None:
    """Require the output behind the cut of these inputs, one after another."""
    named = [part.named for part in parts]
    joined = {
        n: x if n in PARAMETERS else torch.cat([each[n] for each in named], 2) for n, x in named[0].items()
    }
    inputs = subject.read_inputs(parts[0].with_(**joined), (0, cut) if cut else (0,))
    expected = subject.expected_of(inputs, state=state)
    part = expected.part((slice(None), slice(None), slice(cut, None), slice(None)))
    subject.observe(require_within(np.asarray(values), part.noted(note)))


def _nulled(call: Padded, b: int, right: int) -> list[Inputs]:
    """Return a row whose padded places write nothing, and behind real tokens decay nothing; its tokens."""
    subject, row = call.subject, row_of(call.judged, b)
    real = call.mask[b, None, :, None]
    named = {n: torch.where(real, x, torch.zeros_like(x)) for n, x in row.named.items() if n in "kv"}
    if row.b is not None:
        closed = -OPEN if subject.contract.beta_in == "logit" else 0.0
        named = {"b": torch.where(real, row.b, torch.full_like(row.b, closed)), "k": row_of(call.clean, b).k}
    if row.g is not None and right:
        opened = min(OPEN, subject.domain.most) if subject.contract.from_preact else 0.0
        gates = replace(call.gates, igate=Constant(0.0), fgate=Constant(opened))
        last = torch.arange(call.S, device=real.device)[:, None] >= call.S - right
        named["g"] = torch.where(last, subject.gates_of(gates, call.qkv.K)[1][b : b + 1].to(row.g), row.g)
    return [row.with_(**named), row_of(call.clean, b)]

"""The calls of a TARGET whose launches are recorded: few, but of each kind that its contract promises.

Nothing is judged: launches are only recorded, and the results are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from dmat.strategies.recipes.backgrounds import Normal
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.qkv import QKV, plain_qkv
from dmat.testing.contract import DTILDE
from dmat.testing.kernel.call import pulled
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import LawBroken

LONGEST = 128  # of a call whose contract does not name its lengths
WIDTHS = (64, 32, 16)  # K that is called with first, where the contract states none
HEADS = (1, 2)
Sizes = tuple[int, ...]
Results = Mapping[str, Tensor]


def call_all(implementation: Implementation, dtype: str, shapes: Sequence[Sizes] = ()) -> Iterator[str]:
    """Make the calls in this dtype. Yield why a call fails, in a line. shapes: B, NH, S and K, V; or none."""
    subject = subject_of(implementation, dtype, "cpu")
    for sizes in shapes or [(*HEADS, S) for S in lengths(subject)]:
        for name, call in calls(subject, sizes).items():
            try:
                call()
            except LawBroken as broken:
                yield f"{name}, {dtype}, {sizes}: {broken.finding.computed}"


def lengths(subject: Subject) -> Sequence[int]:
    """Return two lengths: the longest that 16 divides, if there is one, and one that it does not divide."""
    allowed = [S for S in range(1, LONGEST + 1) if subject.domain.has_length(S)]
    even = [S for S in allowed if S % 16 == 0]
    odd = [S for S in allowed if S % 16]
    return [*even[-1:], *odd[len(odd) // 2 :][:1]] or [subject.plainest.shape[-1]]


def calls(subject: Subject, sizes: Sizes) -> dict[str, Callable[[], Results]]:
    """Return the calls at these sizes, by what they are. Each returns its results by name."""
    if subject.kind == DTILDE:
        return {"values and gradients": lambda: _dtilde(cast(DtildeSubject, subject), sizes)}
    kernel = cast(FusedSubject, subject)
    found = {"values and gradients": lambda: _fused(kernel, sizes)}
    if kernel.contract.states is not None:
        found = {"a state": lambda: _with_state(kernel, sizes), **found}
    if kernel.contract.packed is not None:
        found["packed sequences"] = lambda: _packed(kernel, sizes)
    return found


def _gates(subject: Subject, sizes: Sizes) -> Gates:
    domain, shape = subject.domain, (sizes[0], sizes[1], sizes[2])
    fgate = Normal(1, 0.25, -0.5)
    low = getattr(domain, "least", None)
    if low is not None and (low > -1.5 or subject.contract.gate == "fixed"):  # type: ignore[union-attr]
        return Gates(domain.dtype, shape)
    return Gates(domain.dtype, shape, fgate=fgate)


def _dtilde(subject: DtildeSubject, sizes: Sizes) -> Results:
    igate, fgate = _gates(subject, sizes).build(subject.device)
    needs = subject.contract.has_gradients
    leaves = {"di": igate.detach().requires_grad_(needs), "df": fgate.detach().requires_grad_(needs)}
    output = subject.call(*leaves.values())
    return {"D~": output.detach(), **_gradients({"D~": output}, leaves, needs=needs)}


def _fused(subject: FusedSubject, sizes: Sizes) -> Results:
    inputs, leaves = _leaves(subject, sizes)
    output = subject.call_fused(inputs.with_(**leaves))
    return _with_gradients(subject, {"o": output}, leaves)


def _with_state(subject: FusedSubject, sizes: Sizes) -> Results:
    inputs, leaves = _leaves(subject, sizes)
    _, state = subject.call_with_state(inputs, None)
    if isinstance(state, Tensor):
        state = state.detach().requires_grad_(subject.contract.has_gradients)
    output, last = subject.call_with_state(inputs.with_(**leaves), state)
    outputs = {"o": output, **({"last state": last} if isinstance(last, Tensor) else {})}
    return _with_gradients(subject, outputs, leaves)


def _packed(subject: FusedSubject, sizes: Sizes) -> Results:
    _, NH, S, *more = sizes
    inputs, leaves = _leaves(subject, (1, NH, S, *more))
    ends = (S // 2, S) if S > 1 else (S,)
    return _with_gradients(subject, {"o": subject.call_packed(inputs.with_(**leaves), ends)}, leaves)


def _leaves(subject: FusedSubject, sizes: Sizes) -> tuple[Any, dict[str, Tensor]]:
    gates = _gates(subject, sizes)
    inputs = subject.inputs(gates, _qkv(subject, sizes)).with_(s=None)  # a state is a keyword of a call
    needs = subject.contract.has_gradients
    return inputs, {name: x.detach().requires_grad_(needs) for name, x in inputs.named.items()}


def _qkv(subject: FusedSubject, sizes: Sizes) -> QKV:
    S, domain = sizes[2], subject.domain
    plain = plain_qkv(domain, S, "dense", seed=1)
    if len(sizes) == 5:
        return replace(plain, K=sizes[3], V=0 if subject.contract.V_equals_K else sizes[4])
    K = next((K for K in WIDTHS if domain.has_key_size(K, S, "dense")), plain.K)
    return replace(plain, K=K, V=0 if subject.contract.V_equals_K else domain.value_size(K, K))


def _with_gradients(
    subject: FusedSubject, outputs: dict[str, Tensor], leaves: Mapping[str, Tensor]
) -> Results:
    gradients = _gradients(outputs, leaves, needs=subject.contract.has_gradients)
    return {**{name: x.detach() for name, x in outputs.items()}, **gradients}


def _gradients(outputs: Mapping[str, Tensor], leaves: Mapping[str, Tensor], *, needs: bool) -> Results:
    """Pull ones back, causal for D~. Return the gradients by name."""
    if not needs:
        return {}
    pairs = {name: (x, _ones(x, causal=name == "D~")) for name, x in outputs.items()}
    found = pulled(pairs, leaves, retain=False)
    return {f"gradient of {name}": x for name, x in found.items() if x is not None}


def _ones(x: Tensor, *, causal: bool) -> Tensor:
    return torch.ones_like(x).tril() if causal else torch.ones_like(x)

"""Each law names the bounds from which its verdict comes: `@law(..., bound=...)`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from dmat.testing import bounds
from dmat.testing import fused as fused_contract
from dmat.testing.bounds import delta, derivative, dtilde, fused
from dmat.testing.bounds.named import EQUAL_BITS, NO_BOUND
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import BOTH, subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws
from dmat.testing.verdict.require import require_same

from .zoo.delta_sound import DELTA_SOUND
from .zoo.fused_sound import FUSED_SOUND, by_windows, widen
from .zoo.gate_kernels import GATES_SOUND, GDN, gdn_steps, steps_parallel
from .zoo.sound import SOUND
from .zoo.states import by_sequence, step, zeros_for

FOLDER = str(Path(bounds.__file__).parent)
BITS = require_same.__code__
# Right kernels whose contracts together lead a law through all its branches: scopes of errors and gradients,
# equal bits or a bound for later times, transforms, states, packed sequences, each gate, a normaliser.
RIGHT = {
    "D~": ("masked_cumulative_sum", "cumulative_sum_difference", "doubling_scan"),
    "fused": (
        "parallel_windows",
        "parallel_input_gate",
        "chunks_of_4",
        "chunks_packed",
        "chunks_factored",
        "mlstm_parallel_far_gates",
        "mlstm_chunks",
        "packed_with_input_gate",
        "delta_steps",
        "delta_packed",
        "delta_chunks_solved",
        "steps_parallel",
        "gdn_steps",
        "packed_steps",
        "packed_gdn",
        "dt_states",
        "gdn_states",
    ),
}


def packed_with_input_gate(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, log_f: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    """All of E of one packed sequence after another, with an exponential input gate."""
    ends = [0, q.shape[2]] if cu_seqlens is None else cu_seqlens.tolist()
    spans = [slice(start, end) for start, end in pairwise(ends) if start < end]
    parts = [[x[:, :, span] for x in widen(q, k, v, i, log_f)] for span in spans]
    outputs = [q_ @ k_.mT * (by_windows(l_) + i_[..., None, :]).exp() @ v_ for q_, k_, v_, i_, l_ in parts]
    return torch.cat(outputs, 2).to(v.dtype)


def packed(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel that calls another, (q, k, v, gates .., A_log, dt_bias), on each packed sequence."""

    def of_sequences(*tensors: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        ends = [0, tensors[0].shape[2]] if cu_seqlens is None else cu_seqlens.tolist()
        spans = [slice(start, end) for start, end in pairwise(ends) if start < end]
        found = [kernel(*(x if x.ndim < 3 else x[:, :, span] for x in tensors)) for span in spans]
        return torch.cat([one[0] if isinstance(one, tuple) else one for one in found], 2)

    of_sequences.__name__ = f"packed_{kernel.__name__.split('_')[0]}"
    return of_sequences


def dt_steps(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, dt: Tensor, A_log: Tensor, dt_bias: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Step by step, with an input gate and gates made inside."""
    q, k, v_, i, dt = widen(q, k, v, i, dt)
    log, rows = -A_log.exp()[:, None] * softplus(dt + dt_bias[:, None]), []
    for t in range(q.shape[2]):
        S, o = step(S, q[:, :, t], k[:, :, t] * i[:, :, t, None].exp(), v_[:, :, t], log[:, :, t])
        rows.append(o)
    return torch.stack(rows, 2).to(v.dtype), S


def with_states(kernel: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a kernel that calls another on each sequence, from a state of its own."""

    def of_states(*tensors: Tensor, state: Any = None, cu_seqlens: Tensor | None = None) -> Any:
        timed, fixed = ([x for x in tensors if (x.ndim < 3) == flat] for flat in (False, True))
        q, v = tensors[0], tensors[2]
        rows = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        states = zeros_for(q, v, rows) if state is None else state
        if cu_seqlens is None:
            return kernel(*timed, *fixed, states)
        o, last = by_sequence(
            lambda *x: kernel(*x[:-1], *fixed, x[-1]), timed, states.split(1), cu_seqlens.tolist()
        )
        return o, torch.cat(last)

    of_states.__name__ = name
    return of_states


BOTH_KEYWORDS: dict[str, Any] = {"states": "state", "packed": "cu_seqlens"}
DT_STATES = fused_contract(
    with_states(dt_steps, "dt_states"), gate="dt", igate=True, K=(1, 4), **BOTH_KEYWORDS
)
GDN_STATES = fused_contract(
    with_states(gdn_steps, "gdn_states"), **{**GDN, **BOTH_KEYWORDS}, l2norm=1e-6
)  # fmt: skip
STEPS = fused_contract(packed(steps_parallel), gate="dt", factors="one", packed="cu_seqlens", K=(1, 4))
GDN_STEPS = fused_contract(
    packed(gdn_steps), packed="cu_seqlens", **{**GDN, "states": None}, l2norm=1e-6
)  # fmt: skip
PACKED = fused_contract(packed_with_input_gate, igate=True, factors="one", packed="cu_seqlens")
OF_SUMS, OF_GATES = [*FUSED_SOUND, PACKED, DT_STATES], [*GATES_SOUND, STEPS, GDN_STEPS, GDN_STATES]
ZOO: dict[str, list[Callable[..., Any]]] = {"D~": SOUND, "fused": [*OF_SUMS, *DELTA_SOUND, *OF_GATES]}
EVERY = [law for kind in BOTH for law in laws(kind)]


def _returns_a_bound(function: Any) -> bool:
    return inspect.isfunction(function) and inspect.get_annotations(function).get("return") == "Bound"


def bound_functions() -> Iterator[FunctionType]:
    """Yield every public function and method of dmat/testing/bounds/ that returns a Bound."""
    for owner in (dtilde, derivative, fused, fused.FusedBounds, delta, delta.DeltaBounds):
        for name, function in vars(owner).items():
            if name[0] != "_" and _returns_a_bound(function):
                yield function


CODES = {function.__code__: function for function in bound_functions()}


@contextmanager
def noted(calls: set[CodeType]) -> Iterator[None]:
    """Note the calls of `require_same`, and of bounds from outside of dmat/testing/bounds/."""

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (frame.f_code in CODES or frame.f_code is BITS):
            within = frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(FOLDER)
            if not within:
                calls.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def subjects(law: Law) -> Iterator[Subject]:
    """Yield the right kernels to which a law applies, each in the first dtype where it does."""
    for kernel in ZOO[law.kind]:
        if kernel.__name__ not in RIGHT[law.kind]:
            continue
        right = Implementation.of(kernel.__name__, kernel)
        tried = (subject_of(right, dtype) for dtype in ("float32", "bfloat16"))
        yield from islice((one for one in tried if law.not_applicable(one) is None), 1)


@pytest.mark.parametrize("law", EVERY, ids=lambda law: f"{law.name}-{law.kind}")
def test_a_law_calls_the_bounds_that_it_names(law: Law) -> None:
    """On right kernels a law calls just the bounds that it names, and compares bits just where it says so."""
    torch.set_num_threads(1)
    calls: set[CodeType] = set()
    tried = 0
    for subject in subjects(law):
        ladder = list(law.cases.ladder(subject.domain))
        for case in ladder[:: max(1, len(ladder) // (1 if law.cost == "costly" else 8))]:
            with noted(calls):
                law.check(subject, **law.arguments(case))
            tried += 1
    if not tried:
        pytest.skip("a law of CUDA")
    called = {CODES[code] for code in calls - {BITS}}
    assert called == {one for one in law.bound if callable(one)}
    assert (BITS in calls) == (EQUAL_BITS in law.bound)


@pytest.mark.parametrize("law", EVERY, ids=lambda law: f"{law.name}-{law.kind}")
def test_what_a_law_may_name(law: Law) -> None:
    """A law names functions of dmat/testing/bounds/, equal bits beside them or alone, or else no bound."""
    assert law.bound == (NO_BOUND,) or (law.bound and set(law.bound) <= {EQUAL_BITS, *CODES.values()})
    assert len(set(law.bound)) == len(law.bound)

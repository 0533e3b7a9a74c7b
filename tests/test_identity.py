"""Identity in `dmat grade`: which pairs of calls give the same bits, and how far apart the others are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmat.strategies import Gates
from dmat.testing import fused
from dmat.testing.grade.agreement import PAIRS, Agreement, Identity, ulps
from dmat.testing.grade.pairs_fused import identity_of
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of

F32 = torch.float32


def steps(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return o and the last state of a recurrence: a step is the same whatever is beside it."""
    B, NH, S, K = q.shape
    state = v.new_zeros(B, NH, K, v.shape[-1]) if state is None else state
    outputs = []
    for t in range(S):
        state = state * g[:, :, t, None, None].exp() + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outputs, 2), state


def packed_steps(*tensors: Tensor, ends: Tensor | None = None, bug: float = 0.0, **more: Tensor) -> object:
    """Return o of packed sequences, each alone; bug: what all but the first are multiplied by, less 1."""
    if ends is None:
        return steps(*tensors, **more) if more else steps(*tensors)[0]
    parts = [steps(*(x[:, :, a:b] for x in tensors))[0] for a, b in pairwise(ends.tolist())]
    return torch.cat([part * (1 + bug * (n > 0)) for n, part in enumerate(parts)], 2)


def found(kernel: Callable[..., object], **contract: object) -> dict[tuple[str, str], Agreement]:
    """Return the agreements of a kernel in float32."""
    torch.set_num_threads(1)
    more: dict[str, Any] = {"K": 4, "dtypes": ("float32",), "max_seq": 9, **contract}
    subject = subject_of(Implementation.of("k", fused(kernel, **more)), "float32")
    assert isinstance(subject, FusedSubject)
    identity = Identity()
    identity_of(subject, identity, lambda told: None)
    return identity.found


def test_ulps() -> None:
    """A difference is counted in units of the last place of the larger number; NaN equals NaN."""
    one, nan, inf = 1.0, float("nan"), float("inf")
    up = float(np.nextafter(np.float32(1), np.float32(2)))
    for x, y, many in ((one, one, 0), (one, up, 1), (2.0, up, 2**22 - 0.5), (0.0, -0.0, 0), (nan, nan, 0)):
        assert ulps(np.array([x]), np.array([y]), F32) == many
    for x, y in ((nan, one), (inf, one), (inf, -inf)):
        assert ulps(np.array([x]), np.array([y]), F32) == inf
    assert ulps(np.array([1e-45]), np.array([0.0]), F32) == pytest.approx(1, rel=0.5)  # a subnormal number


def test_steps_are_the_same_whatever_is_beside_them() -> None:
    """A recurrence gives the same bits packed, split, token by token, in any batch and alone."""
    every = found(packed_steps, states="state", packed="ends")
    assert {pair for pair, _ in every} == set(PAIRS) - {"config"}
    assert {name: one.worst for name, one in every.items() if one.worst} == {}
    assert {quantity for _, quantity in every} == {"o", "S", "dq", "dk", "dv", "dl"}


def test_what_the_contract_lacks_is_absent() -> None:
    """Without states and packed sequences there is no row for them; with fixed gates none for a head."""
    assert {pair for pair, _ in found(lambda *x: steps(*x)[0])} == {"order", "batch", "head", "prefix"}

    def retention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return steps(q, k, v, torch.full(v.shape[:3], -0.5))[0]

    fixed = found(retention, gate="fixed", fixed=lambda NH: torch.full((NH,), -0.5))
    assert {pair for pair, _ in fixed} == {"order", "batch", "prefix"}


def test_what_differs_is_named_with_its_length() -> None:
    """Each pair finds what differs in it alone, from the length on from which it does."""
    q_of_batch = found(lambda q, *x: steps(q * (1 + 1e-6 * len(q)), *x)[0])
    assert q_of_batch["batch", "o"].worst > 0
    assert q_of_batch["order", "o"].worst == 0
    in_packed = found(lambda *x, **more: packed_steps(*x, bug=1e-6, **more), packed="ends")
    assert {pair for (pair, _), one in in_packed.items() if one.worst} == {"packed"}

    def long(q: Tensor, *x: Tensor) -> Tensor:
        return steps(q * (1 + 1e-6 * (q.shape[2] > 4)), *x)[0]

    prefix = found(long)["prefix", "o"]
    assert prefix.length == 5
    assert 1 < prefix.worst < 100
    assert "gates = Gates(" in (prefix.case or "")

    def lost(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None) -> object:
        o, last = steps(q, k, v, g, state)
        return o, last.bfloat16().float()

    assert found(lost, states="state")["split", "o"].worst > 1


def test_a_call_that_raises_is_told() -> None:
    """A kernel that refuses one of the two calls has no result there, and says why."""

    def refuses(q: Tensor, *x: Tensor) -> Tensor:
        if len(q) == 2:
            raise ValueError("no batch of 2")
        return steps(q, *x)[0]

    identity, case = Identity(), {"gates": Gates("float32", (1, 1, 1))}
    assert identity.results() == []
    assert found(refuses)["batch", "o"].raised == ""

    def refuses_one(q: Tensor, *x: Tensor) -> Tensor:
        if q.shape[:3] == (1, 2, 5):
            raise ValueError("no batch of 1")
        return steps(q, *x)[0]

    one = found(refuses_one)["batch", "o"]
    assert one.raised == "raised ValueError: no batch of 1"
    assert one.length == 5
    identity.note("head", {"o": torch.ones(1)}, {"o": torch.ones(2)}, case)
    assert identity.results()[0].ulps is None

"""Cases of `exact` and `gradient_exact` of fused kernels: gates open or closed for good, integers."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from torch import Tensor

from dmat.strategies.cases.fused import EXACT
from dmat.testing import fused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.registry import law_named

HALF = {"float16": "float16"}


def by_differences(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    """Right in the format of its gates: E from differences of one cumulative sum."""
    c = gate.cumsum(-1)
    E = (c[..., :, None] - c[..., None, :]).exp().tril()
    return q @ k.mT * E @ v


def subject(gate: str, dtype: str = "float16", **more: Any) -> FusedSubject:
    """Return the kernel as a law sees it."""
    contract = {"gate": gate, "error_scope": "prefix", "factors": "one", "accumulates_in": HALF, **more}
    return FusedSubject(Implementation.of("by_differences", fused(by_differences, **contract)), dtype)


@pytest.mark.parametrize(
    ("gate", "more"),
    [("log", {}), ("preact", {}), ("preact", {"reads": "mlstm", "igate": True, "scale": "K**-0.5"})],
    ids=["log", "preact", "mlstm"],
)
def test_what_is_drawn_of_a_float16_is_inside(gate: str, more: dict[str, Any]) -> None:
    """In no case drawn do log gates sum to an overflow, as sixteen of -1024 may, or is an mLSTM's q lost."""
    domain = subject(gate, **more).domain
    assert EXACT.inside is not None
    cases = [EXACT.draw(Random(seed), domain) for seed in range(300)]
    assert all(EXACT.inside(case, domain) for case in cases)
    assert max(case["gates"].shape[-1] for case in cases) > 64
    assert any((case["gates"].values()[1] < 0).any() for case in cases)


def test_a_sum_that_a_float16_cannot_hold_is_no_fault() -> None:
    """A right kernel that promises sums in float16 is not accused of an overflow of closed gates."""
    here, law = subject("log"), law_named("exact", "fused")
    for seed in range(100):
        law.check(here, **EXACT.draw(Random(seed), here.domain))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_open_gates_add_nothing_up(dtype: str) -> None:
    """Open pre-activation gates are promised for every length: what is summed is log sigmoid of them, 0."""
    domain = subject("preact", dtype).domain
    lengths = {case["gates"].shape[-1] for case in EXACT.ladder(domain)}
    assert lengths >= {*domain.shortest(3), *domain.past_chunks()}

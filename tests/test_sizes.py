"""K and V around the tiles of kernels: each is tried, wrong numbers are found, and a refusal is no bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, settings
from torch import Tensor

from dmat.strategies import QKV, Gates
from dmat.strategies.cases import sizes
from dmat.testing import fused
from dmat.testing.check.coverage import refusals
from dmat.testing.counterexample.attempt import tried
from dmat.testing.counterexample.outcome import COULD_NOT
from dmat.testing.errors import SizesRefused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.record import Record, Report
from dmat.testing.registry import law_named
from dmat.testing.run.attempt import attempt
from dmat.testing.run.run import record_of
from dmat.testing.run.search import NO_SERVICES
from dmat.testing.run.shapes import not_allowed
from dmat.testing.verdict.finding import Failure

from .zoo.fused_sound import by_windows, product, widen
from .zoo.size_kernels import multiples_of_16, up_to_64_columns

FEW = settings(max_examples=3, database=None, phases=[Phase.generate])
DENSE = law_named("dense", "fused")
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"states": "state"},
    "softmax": {"reads": "softmax"},
    "normalised": {"reads": "normalised"},
    "delta": {"reads": "delta", "states": "state"},
    "by channel": {"gates_by": "channel"},
    "mamba": {"gate": "dt", "weight": "dt", "skip": "head", "z": True},
}


def parallel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    q_, k_, v_, g_ = widen(q, k, v, g)
    return product(q_, k_, v_, by_windows(g_).exp()).to(v.dtype)


def raising(where: Callable[[Tensor, Tensor], bool], **contract: Any) -> FusedSubject:
    """Return a right kernel that raises where q and v say so."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        if where(q, v):
            raise ValueError("no")
        return parallel(q, k, v, g)

    return FusedSubject(Implementation.of("kernel", fused(kernel, factors="one", **contract)), "float32")


def case_of(K: int, V: int, S: int = 2) -> dict[str, Any]:
    return {"gates": Gates("float32", (1, 1, S)), "qkv": QKV("dense", K, V, seed=1)}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_tries_each_size(kind: str) -> None:
    """Every size of K and of V is in the ladder, never the same one for both; so is it of handed states."""
    subject = subject_of(Implementation.of("k", fused(lambda *x: x, **KINDS[kind])), "float32")
    for kind_of_case in (sizes.DENSE_SIZES, sizes.CUTS_SIZES):
        cases = [case["qkv"] for case in kind_of_case.ladder(subject.domain) if case["qkv"].kind == "dense"]
        assert {qkv.K for qkv in cases} >= set(sizes.SIZES_OF_K)
        assert {qkv.V for qkv in cases} >= set(sizes.SIZES_OF_V)
        assert all(qkv.K != qkv.V for qkv in cases if qkv.K not in (1, 4, 16))


def test_sizes_that_are_stated_alone_are_tried() -> None:
    """Of a stated K only V goes round; where V is stated too nothing is added."""
    K = raising(lambda q, v: False, K=(16, 32), V=16).domain
    assert {qkv.K for _, qkv in sizes._sized(K, 2, sizes.PAIRS)} == {16, 32}
    assert {qkv.V for _, qkv in sizes._sized(K, 2, sizes.PAIRS)} == {16, 32, 48, 64, 96, 128, 256}
    both = raising(lambda q, v: False, K=(16, 32), V=(16,)).domain
    assert not list(sizes._sized(both, 2, sizes.PAIRS))


@pytest.mark.parametrize(
    ("where", "refused"),
    [
        (lambda q, v: q.shape[-1] == 33, (33, 0)),
        (lambda q, v: v.shape[-1] == 48, (0, 48)),
        (lambda q, v: q.shape[-1] * v.shape[-1] > 1000, (33, 48)),
        (lambda q, v: q.shape[-1] == 33 or v.shape[-1] == 48, (33, 48)),
    ],
)
def test_the_size_that_is_refused_is_named(
    where: Callable[[Tensor, Tensor], bool], refused: tuple[int, int]
) -> None:
    """K, V, or both together."""
    found = attempt(DENSE, raising(where), case_of(33, 48), NO_SERVICES)
    assert isinstance(found, SizesRefused)
    assert found.sizes == refused


@pytest.mark.parametrize(
    "subject",
    [
        raising(lambda q, v: q.shape[-1] == 33, K=(1, 33)),
        raising(lambda q, v: v.shape[-1] == 48, V=48, K=(33,)),
        raising(lambda q, v: q.shape[2] == 2),
    ],
)
def test_what_is_stated_may_not_be_refused(subject: FusedSubject) -> None:
    """A stated K or V, or a length, for which the call raises, breaks the law."""
    found = attempt(DENSE, subject, case_of(33, 48), NO_SERVICES)
    assert isinstance(found, Failure)
    assert found.broken.finding.what == "raised"


def test_wrong_numbers_beside_a_refusal_are_a_failure() -> None:
    """A kernel that refuses V = 48, and is wrong at K = 33, is broken at K = 33."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        if v.shape[-1] == 48:
            raise ValueError("no")
        return parallel(q[..., :32], k[..., :32], v, g)

    subject = FusedSubject(Implementation.of("kernel", fused(kernel, factors="one")), "float32")
    found = attempt(DENSE, subject, case_of(33, 48), NO_SERVICES)
    assert isinstance(found, Failure)
    assert (found.case["qkv"].K, found.broken.finding.what) == (33, "value")


def record(kernel: Any) -> Record:
    subject = subject_of(Implementation.of("k", kernel), "float32", part="ladder")
    return record_of(DENSE, subject, FEW)


def lines(*records: Record) -> list[str]:
    return refusals(Report.of("k", {"reads": "linear"}, list(records), records[0].tried))


def test_a_right_kernel_that_refuses_some_holds() -> None:
    """Multiples of 16 alone are checked from K = 16 on; the line says which to state."""
    found = record(multiples_of_16)
    assert found.status == "passed"
    assert lines(found) == ["refuses K=1, 2, 4, 8, 24, 33: state K=(16, 32, 48, 64, 96, 128, 256)"]


def test_a_limit_on_columns_and_on_both_sizes_is_told() -> None:
    """A state that must fit: of V past 64, and of K = 256 with V = 33."""
    told = lines(record(up_to_64_columns))
    assert told[0].startswith("refuses V=96, 128, 256: state V=(1, 2, 8, 24, ")
    assert told[1:] == ["refuses K=256 with V=33: state a K or a V without them"]


def test_a_shape_may_have_any_K_that_nobody_stated() -> None:
    """`--shape` takes K of up to 256, and of a contract that states some just these."""
    assert not_allowed(raising(lambda q, v: False), (1, 1, 4, 33, 5)) is None
    assert not_allowed(raising(lambda q, v: False), (1, 1, 4, 512, 5)) == "K = 512, but up to 256"
    assert not_allowed(raising(lambda q, v: False, K=(4, 16)), (1, 1, 4, 33, 5)) == "K = 33, but 4, 16"


def test_a_replayed_case_that_is_refused_could_not_run() -> None:
    """It is neither fixed nor still broken."""
    subject = raising(lambda q, v: q.shape[-1] == 33)
    status, why = tried("dense", subject.implementation, "float32", "cpu", case_of(33, 48))
    assert (status, why) == (COULD_NOT, "kernel refuses K=33 raised ValueError: no")

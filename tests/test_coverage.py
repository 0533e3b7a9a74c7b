"""What a SOUND verdict says it covers is what was called and judged; what it says was not tried was not."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from msgspec.structs import replace
from torch import Tensor

from dmat.strategies import QKV, Constant, Cotangent, Gates
from dmat.testing import fused
from dmat.testing.check import coverage
from dmat.testing.check.coverage import covered, numbers, untried
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.record import LawRecord, Report, Tried, stated
from dmat.testing.registry import laws
from dmat.testing.run.tried import note
from dmat.testing.verdict import require

from .zoo.delta_rules import in_steps
from .zoo.fused_sound import by_windows, product, widen

CASES = 4  # of the ladder of each law
# The kind of operator, the quantities that each law judges, and the law and the keywords of each call.
Judged = tuple[str, dict[str, set[str]], list[tuple[str, frozenset[str]]]]


def both(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None, ends: Any = None) -> Any:
    """Takes states and packed sequences, and is right in neither: only its calls are looked at."""
    wide_q, wide_k, wide_v = widen(q, k, v)
    o = product(wide_q, wide_k, wide_v, by_windows(widen(log_f)[0]).exp()).to(v.dtype)
    return o, o.detach()


def ended(law: str, status: str = "passed") -> LawRecord:
    return LawRecord(law, "k", "float32", "cpu", status, examples=1)  # type: ignore[arg-type]


def report(contract: dict[str, Any], *names: str, tried: Tried | None = None) -> Report:
    return Report.of("k", contract, [ended(name) for name in names], tried)


def both_of_delta(
    q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, beta: Tensor, state: Any = None, ends: Any = None
) -> Any:
    """Is a delta rule that takes states and packed sequences, and is right in no sequence but the first."""
    rows = 1 if ends is None else len(ends) - 1
    o, last = in_steps(q, k, v, log_f, beta, state if state is None or ends is None else state[:1])
    return o, last if ends is None else last.expand(rows, *last.shape[1:])


KERNELS = {
    "linear": fused(both, states="state", packed="ends"),
    "delta": fused(both_of_delta, reads="delta", states="state", packed="ends"),
}


@pytest.fixture(scope="module", params=KERNELS)
def judged(request: pytest.FixtureRequest) -> Judged:
    """Run the first cases of each law, and return the quantities that each law compares with bounds."""
    subject = subject_of(Implementation.of("both", KERNELS[request.param]), "float32")
    found, calls = dict[str, set[str]](), list[tuple[str, frozenset[str]]]()
    own, function = require._ratios, subject.implementation.function

    def seen(law: Law) -> None:
        def ratios(computed: Any, expected: Any) -> Any:
            found.setdefault(law.name, set()).add(expected.quantity)
            return expected.bound.bound * 0, expected.bound.bound * 0  # right, whatever it is

        def called(*inputs: Tensor, **more: Any) -> Any:
            calls.append((law.name, frozenset(name for name, x in more.items() if x is not None)))
            return function(*inputs, **more)

        patch.setattr(require, "_ratios", ratios)
        patch.setattr(require, "require_kinds", lambda computed, expected: None)
        for case in islice(law.cases.ladder(subject.domain), CASES):
            with suppress(AssertionError):
                law.check(subject.calling(called, "kernel"), **law.arguments(case))

    with pytest.MonkeyPatch.context() as patch:
        for law in laws("fused"):
            if not law.not_applicable(subject):
                seen(law)
    assert require._ratios is own
    return request.param, found, calls


@pytest.mark.parametrize("law", [*coverage.OF_DENSE, *coverage.OF_ONE_HOT, *coverage.OF_CALLS])
def test_the_gradients_that_are_said_to_be_judged_are(law: str, judged: Judged) -> None:
    """Each law compares just the gradients with their bounds that the line names for it."""
    reads, found, _ = judged
    if law not in found:
        unlike = ("input_gradient", "beta_gradient", "state_gradient", "parameter_gradients")
        assert law in unlike  # the kernel takes no such input
        return
    table = coverage.OF_DENSE | coverage.OF_ONE_HOT | coverage.OF_CALLS
    names = coverage._judged({law}, {law: table[law]}, {"reads": reads})
    assert {x for x in found[law] if x.startswith("d")} == set(names)


def test_what_is_said_never_to_be_tried_together_never_is(judged: Judged) -> None:
    """No law calls a kernel with packed ends and dense q, k, v but with states too, and the line says so."""
    reads, _, calls = judged
    alone, both = {frozenset(), frozenset({"state"}), frozenset({"ends"})}, frozenset({"state", "ends"})
    assert {keywords for _, keywords in calls} == {*alone, both}
    assert {law for law, keywords in calls if keywords == both} == {"packed_states"}
    assert all(law == "packed_states" or law == "packed" for law, keywords in calls if "ends" in keywords)
    line = untried(report({"reads": reads, "states": "state", "packed": "ends"}))[0]
    assert line.startswith(
        "never tried together: more than two handovers of state; ends with dense q, k, v but"
    )
    apart = untried(report({"reads": reads, "states": "state", "packed": "ends", "packed_states": False}))[0]
    assert apart.startswith("never tried together: state with ends;")
    assert not any(line.startswith("never") for line in untried(report({"reads": reads})))


def test_numbers_are_told_as_stretches() -> None:
    """Neighbours are one stretch; of many stretches the largest number is told."""
    assert numbers([3, 1, 2, 64, 64]) == "1 .. 3, 64"
    assert numbers(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, ..., 38 (20 in all)"


def test_lines_tell_what_was_noted() -> None:
    """Lengths, heads, sizes, layouts: of the cases, and of no other."""
    subject = FusedSubject(Implementation.of("both", fused(both, K=4)), "float32")
    tried = Tried()
    for S, layout in ((2, "contiguous"), (5, "strided")):
        gates = Gates("float32", (1, S, S), fgate=Constant(-1.0), fgate_layout=layout)
        note(tried, {"gates": gates, "qkv": QKV(K=4)}, subject.domain)
    contract = stated(subject.contract.stated())
    lines = covered(report(contract, "forget_gradient", "product_gradients", tried=tried))
    assert lines[:5] == [
        "lengths    S = 2, 5",
        "heads      (B, NH) = (1, 2), (1, 5)",
        "sizes      K = 4; V = 2, 5; not tried: K = 16; V = 1, 4, 8, 16, 32, 64, 128, 256",
        "layouts    gates: contiguous, strided; q, k, v: contiguous; cotangent: contiguous",
        "gradients  dq, dk, dv of dense q, k, v; dl of one-hot q, k, v",
    ]


def test_a_gradient_that_was_not_judged_is_not_named() -> None:
    """A law that was not run judges none, nor does one that failed."""
    tried = Tried(lengths={1}, heads={(1, 1)})
    none = report({"reads": "linear", "gradient": "none"}, "forget_gradient", tried=tried)
    assert "gradients  none was judged" in covered(none)
    plain = report({"reads": "linear"}, "product_gradients", tried=tried)
    assert "gradients  dq, dk, dv of dense q, k, v" in covered(plain)
    failed = replace(plain, laws=[ended("product_gradients", "failed")])
    assert "gradients  none was judged" in covered(failed)


def test_a_state_is_said_to_be_judged_where_its_gradient_was_compared() -> None:
    """Of a delta rule whose state's layout is unknown, the law of its gradient holds without a comparison."""
    tried, contract = Tried(lengths={1}, heads={(1, 1)}), {"reads": "delta", "states": "state"}
    laws = ("product_gradients", "beta_gradient", "state_gradient")
    opaque = report(contract, *laws, tried=tried)
    assert "gradients  dq, dk, dv, dbeta of dense q, k, v" in covered(opaque)
    assert any("the gradient of the state" in line for line in untried(opaque))
    compared = [replace(record, worst=0.1) for record in opaque.laws]
    known = replace(opaque, laws=compared)
    assert "gradients  dq, dk, dv, dbeta, dS0 of dense q, k, v" in covered(known)
    assert not any("state," in line for line in untried(known))


def test_a_dtilde_kernel_has_no_sizes() -> None:
    """K and V are told of fused kernels alone; both gradients of D~ are told."""
    subject = DtildeSubject(Implementation.of("k", lambda i, f: i), "float32")
    tried = Tried()
    note(tried, {"gates": Gates("float32", (2, 3, 4)), "cotangent": Cotangent()}, subject.domain)
    lines = covered(report({}, "input_gradient", "forget_gradient", tried=tried))
    assert lines == [
        "lengths    S = 4",
        "heads      (B, NH) = (2, 3)",
        "layouts    gates: contiguous; cotangent: contiguous",
        "gradients  di, df",
        "no law reads: derivatives beyond the second",
    ]

"""Which failures have one cause: what was once told wrongly of mutants of the zoos, and of pairs of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from dmat.reference import masked_cumulative_sum
from dmat.strategies import QKV, Constant, Cotangent, Edited, Gates
from dmat.strategies.recipes.backgrounds import inf
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import encoded
from dmat.testing.causes.compare import symptom
from dmat.testing.causes.failure import Clock, Failure
from dmat.testing.causes.gradient import gradient_alone, is_of_own_output
from dmat.testing.causes.group import Grouping, covered
from dmat.testing.causes.relaxable import Relaxable
from dmat.testing.causes.search import causes_of
from dmat.testing.causes.trial import broken
from dmat.testing.causes.wrong import has_wrong_gradients_of, has_wrong_state_gradient_of
from dmat.testing.explain.place import likely_place
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.record import Refuting, Wider
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Example, Finding

from .test_kernel_causes import BACKWARD, ZERO, Cases, causes, difference, gates, named, report
from .zoo.named import ALL, FUSED
from .zoo.pairs import PAIRS

PAIR = PAIRS[0].kernel  # a wrong mask, and a wrong gradient


def test_a_cotangent_of_another_shape_is_cut() -> None:
    """Cases of one and of two batches are compared, though the cotangent of one has an entry of batch 1."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) + 1

    two = Gates("float32", (2, 1, 2), fgate=Constant(-1.0))
    edited = Cotangent(Edited(ZERO, (((1, 0, 1, 0), 1.0),)))
    fell: Cases = [
        ("values", {"gates": gates(2)}),
        ("retained_graph", {"gates": two, "cotangent": edited}),
    ]
    found = causes(kernel, fell).entries
    assert found[0].kind == "bug"


def test_a_difference_that_is_no_rounding_is_of_the_bug() -> None:
    """A kernel that reads the future far off the exact value is not said to give other bits at each call."""
    later: Case = {"gates": gates(2, Constant(1.0)), "rival": gates(2), "t": 0}
    [cause] = causes(ALL["transposed"], [("values", {"gates": gates(2)}), ("causality", later)]).entries
    assert (cause.kind, [one.law for one in cause.breaks]) == ("bug", ["values", "causality"])


def test_promises_that_one_failure_needs_together_are_one_cause() -> None:
    """A kernel that sums both ends of the gates by differences has one cause, not three."""
    failures: list[Any] = ["forward", "gradient", "first gradient", "half"]
    scope, back, half = (frozenset({name}) for name in ("error_scope", "grad_scope", "bfloat16"))
    sets = list(zip(failures, ([scope], [scope | back], [back], [half]), strict=True))
    groups = covered(sets, ["error_scope", "grad_scope", "bfloat16"])
    assert [group.given_up for group in groups] == [scope | back, half]
    shown: list[Any] = list(groups[0].failures)
    assert sorted(shown) == sorted(failures[:3])


def test_a_scope_that_no_finite_gate_needs_is_no_cause() -> None:
    """A kernel that fails with -inf and NaN gates alone is not told that its errors grow with the prefix."""
    failures: list[Any] = ["one", "two", "three"]
    scope, special, both = (frozenset(names) for names in (("error_scope",), ("-inf",), ("-inf", "nan")))
    sets = [(failures[0], [scope, special]), (failures[1], [scope, both])]
    [group] = covered(sets, ["error_scope", "-inf", "nan"])
    assert group.given_up == both
    [group] = covered([*sets, (failures[2], [scope])], ["error_scope", "-inf", "nan"])
    assert group.given_up == scope


def test_a_wrong_head_is_one_bug() -> None:
    """A kernel that reads the gates of another head has its gradient and output wrong, by one bug.

    The gradient alone is wrong where both heads have the same gates, and where far entries of exp(D~) are 0.
    """
    own = Implementation.of("k.py:f", FUSED["fused_gates_of_another_head"])
    far = Gates("float32", (1, 2, 100), fgate=Constant(-0.1))
    fell: Cases = [
        ("gradient_exact", {"gates": Gates("float32", (1, 2, 2)), "qkv": QKV("integers", pull=1)}),
        ("forget_gradient", {"gates": far, "qkv": QKV(pull=1)}),
        ("dense", {"gates": two_heads(-20.0), "qkv": QKV("dense", 4, 1, seed=1)}),
        ("values", {"gates": two_heads(-3.0), "qkv": QKV(K=4, seed=1)}),
    ]
    [cause] = causes_of(own, replace(report(own, fell), stands_under=Wider("none")), seconds=60).entries
    assert cause.kind == "bug"


def two_heads(closed: float) -> Gates:
    """Return gates of two heads, the second of which is more closed."""
    return Gates("float32", (1, 2, 2), fgate=Edited(Constant(-1.0), (((0, 1, 1), closed),)))


def test_a_wrong_product_gradient_in_two_calls_is_one_bug() -> None:
    """dq without the scale breaks the law of two backward passes too."""
    own, heads = Implementation.of("k.py:f", FUSED["fused_dq_without_scale"]), Gates("float32", (1, 3, 1))
    fell: Cases = [
        ("product_gradients", {"gates": gates(1), "qkv": QKV("dense", 4, 4, seed=1)}),
        ("retained_graph", {"gates": heads, "qkv": QKV(K=4, seed=1, pull=1)}),
    ]
    [cause] = causes_of(own, replace(report(own, fell), stands_under=Wider("none")), seconds=60).entries
    assert (cause.kind, len(cause.breaks)) == ("bug", 2)


def test_a_case_that_refutes_another_contract_alone_is_no_cause() -> None:
    """Masked cotangents that a wider contract sums, and the kernel ignores as it must, are no failure."""
    masked: Case = {"gates": gates(40), "cotangent": Cotangent(masked=1.0)}
    refuting = Refuting("masked_cotangent", "float32", "cpu", encoded(masked))
    own = Implementation.of("k.py:f", PAIR)
    fell: Cases = [("future", {"gates": gates(2)}), ("forget_gradient", BACKWARD)]
    known = replace(report(own, fell), stands_under=Wider("none", refuted_by=[refuting]))
    found = causes_of(own, known, seconds=60).entries
    assert {cause.law for cause in found} == {"future", "forget_gradient"}


def test_special_values_are_one_promise() -> None:
    """A kernel that handles neither +inf nor NaN has one cause."""
    failures: list[Any] = ["one", "two"]
    sets = list(zip(failures, ([frozenset({"+inf"})], [frozenset({"nan"})]), strict=True))
    [group] = covered(sets, ["+inf", "nan"])
    shown: list[Any] = list(group.failures)
    assert sorted(shown) == failures
    assert group.given_up == {"+inf", "nan"}


def test_a_wrong_output_is_not_of_a_wrong_gradient() -> None:
    """A kernel with a wrong gradient, and wrong outputs at +inf alone, has two causes."""

    def both(i: Tensor, f: Tensor) -> Tensor:
        output: Tensor = ALL["slope_forgotten"](i, f)
        return output + torch.where(i.mT == torch.inf, torch.nan, 0.0)

    open_: Case = {"gates": Gates("float32", (1, 1, 2), igate=Constant(inf))}
    fell: Cases = [("values", open_), ("forget_gradient", {"gates": gates(2), "cotangent": Cotangent()})]
    found = causes(both, fell).entries
    assert [(cause.kind, list(cause.promises)) for cause in found] == [("bug", []), ("promise", ["+inf"])]


def test_a_gradient_that_is_not_of_its_own_output_is_a_bug() -> None:
    """Every window is wrong, and the gradient is of another head: no output is right. Both are told."""
    kernel: Any = load("tests.zoo.pairs:window_one_late__slope_of_next_head").function
    two = Gates("float32", (1, 2, 2), fgate=Edited(ZERO, (((0, 1, 1), 3.0),)))
    fell: Cases = [
        ("values", {"gates": gates(2)}),
        ("forget_gradient", {"gates": two, "cotangent": Cotangent()}),
    ]
    found = causes(kernel, fell).entries
    assert [(cause.kind, cause.law) for cause in found] == [("bug", "values"), ("bug", "forget_gradient")]


def test_a_gradient_of_a_wrong_output_is_of_the_same_bug() -> None:
    """Every window is wrong, and autograd derives that: one bug."""
    fell: Cases = [
        ("values", {"gates": gates(2)}),
        ("forget_gradient", {"gates": gates(2), "cotangent": Cotangent()}),
    ]
    [cause] = causes(ALL["window_one_late"], fell).entries
    assert (cause.kind, len(cause.breaks)) == ("bug", 2)


def test_a_subnormal_gate_beside_the_fault_is_left_out() -> None:
    """A kernel that is wrong from 1e30 on is not said to be so only with subnormal gates."""

    def kernel(i: Tensor, f: Tensor) -> Tensor:
        return masked_cumulative_sum(i, f) * (1 + (f.abs() >= 1e30).any())

    tiny = Edited(Constant(-1.7e38), (((0, 0, 0), -4.2e-45),))
    [cause] = causes(kernel, [("values", {"gates": gates(2, tiny)})]).entries
    assert cause.gates.startswith("only from |f| = 1")


def test_the_place_of_an_entry_is_told_of_square_quantities_alone() -> None:
    """An entry of D~ lies above or below the diagonal. One of dq, of times and keys, does not."""
    above = Finding("D~", (0, 0, 1, 3), "1.5", "2.5", what="value")
    assert symptom(above) == "D~ above the diagonal: a number for a number"
    assert symptom(Finding("dq", (0, 0, 1, 3), "1.5", "2.5", what="value")) == "dq: a number for a number"


def test_no_place_is_named_where_the_diagonal_alone_is_a_number() -> None:
    """A reset that closes its own column is wrong on the diagonal, as all else is -inf: the mask is right."""
    subject = subject_of(Implementation.of("k.py:f", ALL["reset_closes_its_column"]), "float32")
    case: Case = {"gates": gates(3, Constant(-inf))}
    found = broken(law_named("values"), subject, case)
    assert found is not None
    assert not list(likely_place([Example(case, found.finding)]))


def test_nan_for_minus_infinity_is_not_by_chance() -> None:
    """A kernel that mishandles NaN and +inf, and has a wrong gradient, is not told that its bits vary."""
    nan_at: Case = {"gates": Gates("float32", (1, 1, 2)), "head": (0, 0), "t": 1, "s": 1}
    fell: Cases = [
        ("forget_gradient", {"gates": gates(2), "cotangent": Cotangent()}),
        ("values", {"gates": Gates("float32", (1, 1, 2), igate=Constant(inf))}),
        ("nan_containment", nan_at),
    ]
    kernel = next(pair.kernel for pair in PAIRS if pair.name == "mask_added_to_specials__slope_forgotten")
    own = Implementation.of("pair", kernel)
    found = causes_of(own, replace(report(own, fell), stands_under=Wider("none")), seconds=60).entries
    of_nan = Failure.of(0, report(own, fell).broken()[2], own)
    sets = Grouping(Relaxable.of(own, Wider("none")), Clock.of(60.0))._smallest_sets(of_nan)
    assert sets
    assert frozenset({"deterministic"}) not in sets
    assert [(cause.kind, cause.sentence) for cause in found] == [
        ("bug", "The gradient of the forget gate is wrong."),
        ("promise", "Gates of +inf are not handled; NaN does not stay where the formula has it."),
    ]


def first_failure(target: str, law: str) -> tuple[Failure, Subject]:
    """Return the first failure of a kernel on the ladder of a law, in float32, and the law's subject."""
    own = load(target)
    entry, subject = law_named(law, own.kind), subject_of(own, "float32")
    case = next(one for one in entry.cases.ladder(subject.domain) if broken(entry, subject, one))
    [record] = report(own, [(law, case)]).broken()
    return Failure.of(0, record, own), subject


@pytest.mark.parametrize(
    ("target", "law", "alone"),
    [
        ("tests.zoo.pairs:transposed__slightly_too_large", "forget_gradient", True),
        ("tests.zoo.named:transposed", "forget_gradient", False),
        ("tests.zoo.named:fused_softmax_own_gate", "product_gradients", False),
        ("tests.zoo.named:fused_delta_beta_squared_in_U", "beta_gradient", False),
    ],
)
def test_a_gradient_has_a_bug_of_its_own(target: str, law: str, alone: bool) -> None:
    """It has one where the output is right, or, of D~, where it is far from the wrong output's quotient."""
    assert gradient_alone(*first_failure(target, law)) is alone


@pytest.mark.parametrize(
    ("target", "law", "of_output"),
    [
        ("tests.zoo.named:fused_delta_attention_reads_v", "state_gradient", True),
        ("tests.zoo.named:fused_delta_beta_squared_in_U", "beta_gradient", True),
        ("tests.zoo.named:fused_one_for_e_to_minus_m", "forget_gradient", True),
        ("tests.zoo.named:fused_delta_dq_without_scale", "product_gradients", False),
        ("tests.zoo.named:fused_delta_dbeta_doubled", "beta_gradient", False),
        ("tests.zoo.pairs:fused_carry_forgotten__fused_dk_transposed", "product_gradients", False),
    ],
)
def test_a_gradient_is_that_of_a_wrong_output(target: str, law: str, of_output: bool) -> None:
    """It is so if it is the difference quotient of the kernel's own output, where the exact one is not."""
    assert is_of_own_output(*first_failure(target, law)) is of_output


@pytest.mark.parametrize("apart", [False, True])
def test_one_wrong_gradient_is_one_bug(apart: bool) -> None:
    """Failures of one gradient are told once; those of a wrong output take no other gradient's with them."""
    case: Case = {"gates": gates(2), "cotangent": Cotangent()}
    own = named(difference)

    def failure(law: str, quantity: str) -> Failure:
        [record] = report(own, [(law, case)]).broken()
        finding = Finding(quantity, (0, 0, 1), "2.0", "1.0", what="value", error=1.0, allowed=1e-6)
        return dataclasses.replace(Failure.of(0, record, own), finding=finding)

    known = [failure("forget_gradient", "df"), *([failure("values", "D~")] if apart else [])]
    assert has_wrong_gradients_of(known, [failure("retained_graph", "df")]) is not apart


@pytest.mark.parametrize(
    ("law", "quantity", "joins"),
    [("handover", "dk", True), ("handover", "o", False), ("product_gradients", "dk", False)],
)
def test_a_wrong_gradient_of_the_state_is_told_once(law: str, quantity: str, joins: bool) -> None:
    """Gradients through a state that is handed over come of the state's own, where that is wrong."""
    own = named(difference)
    [record] = report(own, [("values", {"gates": gates(2)})]).broken()

    def failure(law: str, quantity: str) -> Failure:
        finding = Finding(quantity, (0, 0, 1), "2.0", "1.0", what="value", error=1.0, allowed=1e-6)
        return dataclasses.replace(Failure.of(0, record, own), law=law_named(law, "fused"), finding=finding)

    known = [failure("state_gradient", "dS0")]
    assert has_wrong_state_gradient_of(known, [failure(law, quantity)]) is joins

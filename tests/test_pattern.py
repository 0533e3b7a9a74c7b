"""The failing entries in words: each family of predicates is named if it fits exactly, and only then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dmat.strategies import Cycle, Gates, Normal, Palette, Ramp
from dmat.strategies.recipes.cotangents import Cotangent
from dmat.testing.explain.pattern import failing_entries
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.registry import laws
from dmat.testing.verdict.finding import Evidence, Finding, LawBroken

from .zoo.mutants import MUTANTS

B, NH, S = 2, 3, 40
T_, S_ = np.arange(S).reshape(-1, 1), np.arange(S).reshape(1, -1)
CAUSAL, BELOW = T_ >= S_, T_ > S_
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Where = Callable[[Mask, Mask], Any]


def finding(wrong: Mask, quantity: str = "D~", judged: Mask | None = None) -> Finding:
    """Return a finding whose evidence is wrong in just these entries."""
    zeros = np.zeros(wrong.shape)
    where = np.ones(wrong.shape, dtype=bool) if judged is None else judged
    index = tuple(int(n) for n in np.argwhere(wrong)[0]) if wrong.any() else ()
    return Finding(
        quantity, index, "1", "0", evidence=Evidence(zeros, zeros, zeros, wrong, where), what="value"
    )


def in_all_heads(where: Mask) -> Mask:
    """Return the same mask in every head."""
    return np.broadcast_to(where, (B, NH, *where.shape)).copy()


MATRICES: list[tuple[str, Mask]] = [
    ("every entry", CAUSAL | True),
    ("all of the diagonal (t = s)", T_ == S_),
    ("all of the future (s > t)", S_ > T_),
    ("all of the causal part (t >= s)", CAUSAL),
    ("all of the part below the diagonal (t > s)", BELOW),
    ("all causal entries in column s = 3", CAUSAL & (S_ == 3)),
    ("all causal entries in columns s >= 17", CAUSAL & (S_ >= 17)),
    ("all causal entries in columns s < 9", CAUSAL & (S_ < 9)),
    ("all entries below the diagonal in columns s < 9", BELOW & (S_ < 9)),
    ("all causal entries in row t = 7", CAUSAL & (T_ == 7)),
    ("all causal entries in rows t >= 31", CAUSAL & (T_ >= 31)),
    ("all causal entries in rows t >= 32 (past the last whole chunk of 16, 32)", CAUSAL & (T_ >= 32)),
    ("all causal entries in rows t < 12", CAUSAL & (T_ < 12)),
    ("all entries in rows t < 12", (T_ < 12) | (S_ < 0)),
    ("all causal entries with t - s = 4", T_ - S_ == 4),
    ("all causal entries with t - s >= 5", T_ - S_ >= 5),
    ("all causal entries with t - s < 6", CAUSAL & (T_ - S_ < 6)),
    ("all causal entries whose window holds the gate k = 7 (s < 7 <= t)", (S_ < 7) & (T_ >= 7)),
    ("all entries below the diagonal in rows t >= 31 and columns s >= 16", BELOW & (T_ >= 31) & (S_ >= 16)),
    ("all causal entries in rows t >= 31 and columns s < 9", (T_ >= 31) & (S_ < 9)),
    ("all causal entries with t and s in different chunks of 8", CAUSAL & (T_ // 8 != S_ // 8)),
    ("all causal entries with t and s in the same chunk of 4", CAUSAL & (T_ // 4 == S_ // 4)),
    ("all entries below the diagonal with t and s in the same chunk of 16", BELOW & (T_ // 16 == S_ // 16)),
    ("all causal entries with t and s two or more chunks of 16 apart", T_ // 16 > S_ // 16 + 1),
    ("all causal entries with t and s in neighbouring chunks of 8", T_ // 8 == S_ // 8 + 1),
    (
        "all entries below the diagonal whose window crosses an edge of chunks of 16 "
        "(gates s+1 and t in different chunks)",
        T_ // 16 > (S_ + 1) // 16,
    ),
    ("all causal entries in the first row of each chunk of 16", CAUSAL & (T_ % 16 == 0)),
    ("all causal entries in the last row of each chunk of 8", CAUSAL & (T_ % 8 == 7)),
    ("all causal entries in the first column of each chunk of 16", CAUSAL & (S_ % 16 == 0)),
    ("all entries below the diagonal in the last column of each chunk of 4", BELOW & (S_ % 4 == 3)),
    ("all causal entries in each row with t = 2 + a multiple of 5", CAUSAL & (T_ % 5 == 2)),
    ("all causal entries in each column but s = 5, 20", CAUSAL & (S_ != 5) & (S_ != 20)),
    ("all causal entries in rows t = 3, 9, 20", CAUSAL & np.isin(T_, [3, 9, 20])),
    (
        "all causal entries whose window holds one of the 2 gates k = 9, 20",
        ((S_ < 9) & (T_ >= 9)) | ((S_ < 20) & (T_ >= 20)),
    ),
    (
        "all causal entries in rows 20 to 25 and columns 3 to 6",
        (T_ >= 20) & (T_ <= 25) & (S_ >= 3) & (S_ <= 6),
    ),
]
K = np.arange(S)
VECTORS: list[tuple[str, Mask]] = [
    ("every entry", K >= 0),
    ("all entries k = 5", K == 5),
    ("all entries k >= 1", K >= 1),
    ("all entries k >= 32 (past the last whole chunk of 16, 32)", K >= 32),
    ("all entries k < 6", K < 6),
    ("all entries k = 6 to 11", (K >= 6) & (K <= 11)),
    ("the first entry of each chunk of 16", K % 16 == 0),
    ("the last entry of each chunk of 4", K % 4 == 3),
    ("each entry with k = 1 + a multiple of 3", K % 3 == 1),
    ("each entry but k = 4, 30", (K != 4) & (K != 30)),
    ("all entries k = 2, 30, 31", np.isin(K, [2, 30, 31])),
]
ALL = [("D~", *one) for one in MATRICES] + [("df", *one) for one in VECTORS]


@pytest.mark.parametrize(("quantity", "words", "where"), ALL, ids=[f"{q}: {words}" for q, words, _ in ALL])
def test_a_family_is_named(quantity: str, words: str, where: Mask) -> None:
    """Wrong in just the entries of a predicate, in every head: its words, and no word of heads."""
    assert failing_entries(finding(in_all_heads(where), quantity)) == words


@pytest.mark.parametrize(("quantity", "words", "where"), ALL, ids=[f"{q}: {words}" for q, words, _ in ALL])
def test_one_entry_more_or_less_is_another(quantity: str, words: str, where: Mask) -> None:
    """With any one entry of a predicate right, or one beside it wrong, it is not named."""
    wrong, right = np.argwhere(where), np.argwhere(~where)
    for place in [*wrong[:: max(1, len(wrong) // 7)], *right[:: len(right) // 7 + 1]]:
        changed = where.copy()
        changed[tuple(place)] ^= True
        if changed.any():
            assert failing_entries(finding(in_all_heads(changed), quantity)) != words, place


@pytest.mark.parametrize(("quantity", "words", "where"), ALL, ids=[f"{q}: {words}" for q, words, _ in ALL])
def test_what_is_not_judged_does_not_count(quantity: str, words: str, where: Mask) -> None:
    """A predicate fits where each of its judged entries is wrong, whatever else was not judged."""
    free = np.random.default_rng(0).random((B, NH, *where.shape)) < 0.02
    said = failing_entries(finding(in_all_heads(where) & ~free, quantity, ~free))
    assert said == (words if words != "every entry" else "every entry that was judged")


def heads(text: str) -> Mask:
    """Return the causal part in the heads marked "x", a row a batch: "x.x ..."."""
    marked = np.array([[mark == "x" for mark in row] for row in text.split()])
    return np.asarray(CAUSAL & marked[..., None, None])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xxx xxx", ""),
        (".xx xxx", "in every head but b=0, h=0"),
        ("... ..x", "in head b=1, h=2"),
        ("... xxx", "in batch b=1"),
        ("... xxx xxx", "in every batch but the first"),
        ("xxx ... xxx", "in every batch but b=1"),
        ("x.. x..", "in head h=0, whatever the batch"),
        ("xx. xx.", "in every head but h=2, whatever the batch"),
        (".x. x.x", "in 3 of 6 heads (b=0, h=1; b=1, h=0; b=1, h=2)"),
    ],
)
def test_heads(text: str, said: str) -> None:
    """Heads that fail are named where not all do."""
    words = "all of the causal part (t >= s)"
    assert failing_entries(finding(heads(text))) == (f"{words}, {said}" if said else words)


def test_a_head_without_judged_entries_is_not_spared() -> None:
    """A head of which nothing was required does not count among those that are right."""
    judged = np.ones((B, NH, S, S), dtype=bool)
    judged[0, 0] = False
    assert failing_entries(finding(heads(".xx xxx"), judged=judged)) == "all of the causal part (t >= s)"


def test_heads_that_fail_each_in_its_own_way() -> None:
    """The finding's head is described, with those like it, and the others are counted."""
    wrong = heads("xxx ...")
    wrong[0, 2] &= S_ > 5
    words = "all of the causal part (t >= s), in every head but b=0, h=2; 1 more head fails in other places"
    assert failing_entries(finding(wrong)) == words


def test_no_predicate_fits() -> None:
    """What nothing describes is counted, among those it lies in."""
    wrong = np.zeros((B, NH, S, S), dtype=bool)
    wrong[:, :, [5, 9, 31], [2, 7, 30]] = True
    said = failing_entries(finding(wrong))
    assert said == f"18 of {6 * S * (S - 1) // 2} entries below the diagonal, rows 5 to 31, columns 2 to 30"
    wrong[0, 0, 3, 8] = True
    assert failing_entries(finding(wrong)) == f"19 of {wrong.size} entries, rows 3 to 31, columns 2 to 30"


def test_one_entry() -> None:
    """One wrong entry of many fits nearly everything, so nothing more is said of it."""
    wrong = np.zeros((1, 2, 3, 3), dtype=bool)
    wrong[0, 1, 2, 0] = True
    assert failing_entries(finding(wrong)) == "1 of 18 entries: b=0, h=1, t=2, s=0"


@pytest.mark.parametrize(
    ("shape", "quantity", "said"),
    [
        ((1, 1, 1, 1), "D~", "every entry"),
        ((2, 3, 5, 1), "igate_preact", "every entry"),
        ((2, 3, 5), "D~ diagonal", "every entry"),
        ((4, 3, 3), "D~", "every entry"),
        ((3, 5), "D~", "15 of 15 entries, rows 0 to 2, columns 0 to 4"),
        ((7,), "di", "every entry"),
        ((7,), "D~ of the open window", "every entry"),
        ((2, 2, 2, 3, 3), "D~", "every entry"),
    ],
)
def test_any_rank(shape: tuple[int, ...], quantity: str, said: str) -> None:
    """Tensors of other ranks, and parts of tensors, are described too."""
    wrong = np.ones(shape, dtype=bool)
    assert failing_entries(finding(wrong, quantity)) == said


def test_nothing_to_describe() -> None:
    """No evidence, no words; nor any of evidence in which no entry is known to be wrong."""
    some = finding(np.zeros((1, 1, 2, 2), dtype=bool))
    assert failing_entries(some) is None
    assert failing_entries(replace(some, evidence=None)) is None
    assert failing_entries(finding(np.zeros((1, 1, 0, 0), dtype=bool))) is None


CYCLE = Cycle((2.0, -1.0, 0.5))
PLAIN = Gates("float32", (2, 3, S), Ramp(-1.5, 0.125, 0.75), Normal(3, 2.0, 1.0))
EXACT = Gates("float32", (1, 2, S), Palette(1, (64.0, -128.0)), Palette(2, (-64.0, -128.0)))
G = Cotangent(Normal(5, 1.0))


@pytest.mark.parametrize(
    ("name", "law", "case", "said"),
    [
        ("mask_of_1e9", "future", {"gates": PLAIN}, "all of the future (s > t)"),
        ("carry_forgotten", "exact", {"gates": EXACT}, "whose window crosses an edge of chunks of 16"),
        ("two_tiles_only", "exact", {"gates": EXACT}, "with t and s two or more chunks of 16 apart"),
        (
            "tail_gates_dropped",
            "exact",
            {"gates": EXACT},
            "rows t >= 32 (past the last whole chunk of 16, 32)",
        ),
        ("forget_gate_on_diagonal", "diagonal", {"gates": PLAIN}, "every entry"),
        ("first_gate_read", "values", {"gates": PLAIN}, "below the diagonal in column s = 0"),
        ("next_head", "values", {"gates": PLAIN}, "all of the part below the diagonal (t > s)"),
        (
            "first_batch",
            "values",
            {"gates": PLAIN},
            "all of the part below the diagonal (t > s), in batch b=1",
        ),
        ("wrong_at_three_heads", "values", {"gates": PLAIN}, "in head h=2, whatever the batch"),
        ("tail_gradient_dropped", "forget_gradient", {"gates": PLAIN, "cotangent": G}, "all entries k >= 32"),
        ("slope_forgotten", "forget_gradient", {"gates": PLAIN, "cotangent": G}, "all entries k >= 1"),
        ("half_sums", "half_precision", {"gates": replace(PLAIN, dtype="bfloat16")}, "entries below the dia"),
    ],
)
def test_mutants(name: str, law: str, case: dict[str, Any], said: str) -> None:
    """The words for a wrong kernel of the zoo are about its defect."""
    wrong = next(mutant for mutant in MUTANTS if mutant.name == name)
    subject = DtildeSubject(Implementation.of(name, wrong.implementation), case["gates"].dtype)
    check = next(entry.check for entry in laws() if entry.name == law)
    with pytest.raises(LawBroken) as caught:
        check(subject, **case)
    assert said in (failing_entries(caught.value.finding) or "")


def test_it_is_soon_done() -> None:
    """The longest search there is, of a mask that nothing fits, is a few hundred comparisons."""
    wrong = np.random.default_rng(0).random((2, 3, 96, 96)) < 0.3
    shown = finding(wrong & np.tri(96, dtype=bool))
    begun = time.process_time()
    for _ in range(10):
        failing_entries(shown)
    assert time.process_time() - begun < 10 * 0.03

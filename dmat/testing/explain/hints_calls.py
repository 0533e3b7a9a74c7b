"""Say what a broken case depends on: layouts, lengths, cuts, the state. Each sentence is a fresh try.

A sentence says that the law breaks on the case and holds on a changed case, or the reverse. Both were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dmat.strategies import QKV, Cotangent, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED
from dmat.testing.explain.tries import Tries
from dmat.testing.law.fused import FusedSubject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Expected, Finding, LawBroken, as_array
from dmat.testing.verdict.require import require_within

BLOCKS = (2, 4, 8, 16, 32, 64)  # chunk sizes that are looked for
PERIODS = 3  # lengths or cuts are tried over so many chunks
LONG = 24  # the length at which a sentence on a state is tried too
FEWEST = 3  # of the tried ones, so many must be wrong, and two must be right


def call_hints(tries: Tries, case: Case, finding: Finding) -> Iterator[str]:
    """Yield the sentences that hold of this case. Raises NoAnswer when the time is up."""
    yield from layout_hints(tries, case)
    yield from order_hints(tries, case)
    yield from state_hints(tries, case, finding)
    yield from length_hints(tries, case)
    yield from cut_hints(tries, case)


# Layouts


def layout_hints(tries: Tries, case: Case) -> Iterator[str]:
    """Say which inputs must be strided for the law to break: with contiguous ones it holds."""
    changed = {words: plain for words, plain in _contiguous(case) if plain != case}
    for words, plain in changed.items():
        if _same_values(case, plain) and tries.is_mended(case, plain):
            what = "the " + words.removeprefix("a ").removeprefix("contiguous ")
            yield f"with {words} it is right: the layout of {what} is what matters."
            return


def _contiguous(case: Case) -> Iterator[tuple[str, Case]]:
    """Yield the case with contiguous gates, cotangent or q, k, v, each alone, then all."""
    plain: Case = dict(case)
    for name, part in case.items():
        if name == "gates" and isinstance(part, Gates):
            plain[name] = replace(part, igate_layout="contiguous", fgate_layout="contiguous")
            yield "contiguous gates", {**case, name: plain[name]}
        elif isinstance(part, Cotangent):
            plain[name] = replace(part, layout="contiguous")
            yield "a contiguous cotangent", {**case, name: plain[name]}
        elif isinstance(part, QKV):
            plain[name] = replace(part, layout="contiguous")
            yield "contiguous q, k, v and cotangent", {**case, name: plain[name]}
    yield "contiguous inputs", plain


def _same_values(case: Case, other: Case) -> bool:
    """Return whether both cases have the same values: an expanded layout repeats some."""
    one, two = case["gates"], other["gates"]
    if not all(_equal(x, y) for x, y in zip(one.values(), two.values(), strict=True)):
        return False
    pairs = ((case[n], other[n]) for n in case if isinstance(case[n], Cotangent))
    return all(_equal(x.build(one).numpy(), y.build(two).numpy()) for x, y in pairs)


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)


# The order of the inputs


def order_hints(tries: Tries, case: Case) -> Iterator[str]:
    """Say that the kernel is right with two of its inputs exchanged. The law must hold on its ladder then."""
    subject = tries.subject
    of_fused = (0, 1, "q and k"), (1, 2, "k and v")
    pairs = of_fused if subject.kind == FUSED else ((0, 1, "i and f"),)
    law, function = tries.law, subject.implementation.function
    for one, two, words in pairs:

        def exchanged(*inputs: Tensor, one: int = one, two: int = two, **more: object) -> object:
            order = list(inputs)
            order[one], order[two] = order[two], order[one]
            return function(*order, **more)

        changed = subject.calling(exchanged, subject.callee)
        values = law_named("values", subject.kind)
        cases = [(law, case), *((x, y) for x in (law, values) for y in x.cases.ladder(changed.domain))]
        if all(tries.finding(y, x, changed) is None for x, y in cases if not x.not_applicable(changed)):
            yield f"with {words} exchanged it is right: the kernel takes one for the other."
            return


# Lengths and cuts


def length_hints(tries: Tries, case: Case) -> Iterator[str]:
    """Say that the law breaks just where S is no multiple of a chunk."""
    if "cut" in case or "t" in case:
        return  # another length moves these too
    yield from _multiples(
        "S", lambda S: tries.with_length(case, S), lambda changed: tries.holds(changed), 4 * max(BLOCKS)
    )


def cut_hints(tries: Tries, case: Case) -> Iterator[str]:
    """Say that a handover breaks just where the cut is no multiple of a chunk."""
    if "cut" not in case or "t" in case:
        return
    lengths = (tries.with_length(case, length) for length in (97, 49, 25))
    longer = next((one for one in lengths if one is not None), None)
    if longer is None:
        return
    S, inside = longer["gates"].shape[-1], tries.law.cases.inside

    def at(cut: int) -> Case | None:
        moved = {**longer, "cut": cut}
        return moved if inside is not None and inside(moved, tries.subject.domain) else None

    yield from _multiples("the cut", at, lambda changed: tries.holds(changed), S - 1)


def _multiples(
    name: str, changed: Callable[[int], Case | None], holds: Callable[[Case], bool], most: int
) -> Iterator[str]:
    """Yield the sentence for the first block whose multiples are right while all others past it are wrong."""
    known: dict[int, bool | None] = {}

    def right(n: int) -> bool | None:
        if n not in known:
            case = changed(n)
            known[n] = None if case is None else holds(case)
        return known[n]

    for block in BLOCKS:
        end = PERIODS * block
        if end > most or not all(right(n * block) for n in (1, 2, PERIODS)):
            continue
        others = _others(block, end)
        if len(others) >= FEWEST and all(right(n) is False for n in others):
            below = [n for n in range(1, block) if right(n) is not None]
            past = "" if all(right(n) is False for n in below) else f" beyond {block}"
            where = f"it is right where {name} is a multiple of {block}, and wrong elsewhere{past}"
            yield f"{where}: the last partial chunk."
            return


def _others(block: int, end: int) -> list[int]:
    """Return numbers past one block that are no multiples of it: all, or some if they are many."""
    every = [n for n in range(block + 1, end) if n % block]
    if len(every) <= 16:
        return every
    beside = {block + 1, 2 * block - 1, 2 * block + 1, end - 1, block + block // 2, 2 * block + block // 2}
    halves = {block + block // 2**n for n in range(1, block.bit_length() - 1)}
    return sorted(n for n in beside | halves if n % block)


# The state that is handed over


def state_hints(tries: Tries, case: Case, finding: Finding) -> Iterator[str]:
    """Say that a state is not read, or that it is right transposed. Of the law `handover` alone."""
    if tries.subject.kind != FUSED or tries.law.name != "handover" or finding.quantity != "o":
        return
    subject = cast(FusedSubject, tries.subject)
    longer = tries.with_length(case, LONG)
    cases = [case, *([] if longer is None else [{**longer, "cut": LONG // 2}])]
    inside = tries.law.cases.inside
    if longer is not None and not (inside and inside(cases[-1], subject.domain)):
        return  # a case of two times cannot tell a state that lacks a step from none
    first, *others = [_of_state(tries, subject, one) for one in cases]
    neutral = {first, None} if first and "transposed" in first else {first}
    if first and set(others) <= neutral:
        yield first


def _of_state(tries: Tries, subject: FusedSubject, case: Case) -> str | None:
    """Return the sentence on the state of one case, "" for none; None if its state cannot be transposed."""
    cut = case["cut"]
    inputs = subject.inputs(case["gates"], case["qkv"])
    behind = inputs.part(cut, case["gates"].shape[-1])
    tries.require_time()
    try:
        with tries.trying(case):
            _, state = subject.call_with_state(inputs.part(0, cut), inputs.s)
            given, without = (subject.call_with_state(behind, x)[0] for x in (state, None))
            swapped = _transposed(state)
            turned = None if swapped is None else subject.call_with_state(behind, swapped)[0]
    except LawBroken:
        return ""
    expected = subject.expected_of(subject.read_inputs(inputs, (0, cut)), state=state).part(
        (slice(None), slice(None), slice(cut, None), slice(None))
    )
    if _is_right(given, expected):
        return ""
    if turned is not None and _is_right(turned, expected):
        return "with the state transposed it is right: its axes of K and V are swapped."
    if torch.equal(given.nan_to_num(), without.nan_to_num()):
        name = subject.contract.states
        return f"the output is bit for bit that of {name}=None: as if no state had been given."
    return None if turned is None else ""


def _is_right(output: Tensor, expected: Expected) -> bool:
    try:
        require_within(as_array(output), expected)
    except LawBroken:
        return False
    return True


def _transposed(state: object) -> object | None:
    """Return the state with the last two axes of its square matrices swapped; None if it has none."""
    found = False

    def swap(x: object) -> object:
        nonlocal found
        if isinstance(x, Tensor) and x.ndim >= 4 and x.shape[-1] == x.shape[-2] > 1:
            found = True
            return x.mT.contiguous()
        return x

    swapped: object = tree_map(swap, state)
    return swapped if found else None

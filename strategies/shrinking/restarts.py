"""Restarts: short, plain cases that keep a few parts of a failing case, the shortest first.

Shrinking in single steps (steps.py) does not reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

from dmat.strategies.recipes.backgrounds import Background, Constant, Edited, Ramp, Row
from dmat.strategies.recipes.gates import UNIT
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.regimes import LONG_RESTARTS, RESTARTS
from dmat.strategies.shapes import BLOCKS, PAST
from dmat.strategies.shrinking.order import backgrounds, layouts, plainest
from dmat.strategies.shrinking.steps import FEW, GatesShape, shaped, told, with_field

LIFTS = (0.0, 1.0, 64.0)
HEAVY = {  # values so large that adding 1 changes nothing, in the dtype or in a format that it is summed in
    "bfloat16": (2.0**8, 2.0**25),
    "float16": (2.0**12,),
    "float32": (2.0**25,),
    "float64": (2.0**25, 2.0**54),
}
UNEVEN = Ramp(-float(UNIT), head_step=-float(UNIT))  # every head has different gates
SHORT = 3  # in blocks

Change = Callable[[Case], Case]


def _cotangents(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain cotangents: ones, one row, one entry, constants, and ones with a HEAVY value among them."""
    gates = case["gates"]
    yield from (Constant(1.0), Row(1.0), Edited(Constant(0.0), (((0, 0, gates.shape[-1] - 1, 0), 1.0),)))
    yield from (Constant(value) for value in (*values, 0.1))
    for value in HEAVY[gates.dtype]:
        yield Edited(Constant(1.0), (((0, 0, 0, 0), value),))
        if gates.shape[-1] > 2:  # two HEAVY values cancel, so that only the lost ones remain in the sum
            yield Edited(Constant(1.0), (((0, 0, 0, 0), value), ((0, 0, 1, 0), -value)))


def _igates(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain input gates: constants, and ones after a HEAVY value."""
    yield from (Constant(value) for value in dict.fromkeys((*LIFTS, *values)))
    yield from (Edited(Constant(1.0), (((0, 0, 0), value),)) for value in HEAVY[case["gates"].dtype])


def _fgates(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain forget gates: constants, and a single spike at the first or last time."""
    S = case["gates"].shape[-1]
    restarts = RESTARTS if S <= SHORT else LONG_RESTARTS
    yield from (Constant(value) for value in dict.fromkeys((*values, *restarts)))
    yield from (Edited(Constant(0.0), (((0, 0, n), x),)) for x in values for n in dict.fromkeys((0, S - 1)))


def _set(name: str, field: str, value: object) -> Change:
    return lambda case: with_field(case, name, field, value)


def _move_to(name: str, n: int) -> Change:
    return lambda case: {**case, name: n}


def _bare(case: Case) -> Case:
    """Return the case with every background a default constant and every layout contiguous."""
    for name, field, _ in backgrounds(case):
        case = with_field(case, name, field, Constant(plainest(case[name])))
    for name, field, _ in layouts(case):
        case = with_field(case, name, field, "contiguous")
    return case


def _layout_changes(case: Case) -> list[list[Change]]:
    """Return the changes of layout of each tensor, one list a tensor.

    A tensor may take the other layouts of its part, or "strided". The list is empty if all layouts of the
    part are contiguous.
    """
    changes = []
    for name, field, own in layouts(case):
        theirs = {layout for part, _, layout in layouts(case) if part == name} - {"contiguous"}
        others = sorted({*theirs, "strided"} - {own}) if theirs else []
        changes.append([_set(name, field, layout) for layout in others])
    return changes


def _changes(case: Case, shape: GatesShape) -> list[list[Change]]:
    """Return the changes of each part for this shape, one list a part: backgrounds, indices, layouts."""
    plain = {"igate": _igates, "fgate": _fgates, "values": _cotangents}
    short, changes = shaped(case, shape), []
    for name, field, _ in backgrounds(case):
        values = told(case, name)[: FEW // 2]
        if name in ("gates", "cotangent"):
            instead = list(plain[field](short, values))
        else:  # the second gates of a case: a rival or a direction
            instead = [Constant(value) for value in dict.fromkeys((*values, *LIFTS))]
        changes.append([_set(name, field, background) for background in instead])
    places = range(min(shape[-1], SHORT) + 1)
    changes += [[_move_to(name, n) for n in places] for name, part in case.items() if isinstance(part, int)]
    return changes + _layout_changes(case)


def near(case: Case, changes: list[list[Change]], most: int) -> Iterator[Case]:
    """Yield the case unchanged, then with 1, 2, .. `most` changes, at most one to each part."""
    for number in range(most + 1):
        for slots in combinations(changes, number):
            for chosen in product(*slots):
                changed = case
                for change in chosen:
                    changed = change(changed)
                yield changed


def lengths(S: int, block: int, longest: int) -> list[int]:
    """Return the lengths to try, at most S and multiples of `block`.

    First every length of up to `longest` blocks, then those near kernels' block sizes.
    """
    edges = sorted(edge + past for edge in BLOCKS for past in PAST)
    some = (*(block * n for n in range(1, longest + 1)), *edges)
    return [n for n in dict.fromkeys(some) if n <= S and n % block == 0]


def leaps(case: Case, block: int, longest: int, most: int) -> Iterator[Case]:
    """Yield shorter cases with one head, two heads, and the heads of the case.

    A bare case of one head and at most SHORT blocks has up to `most` changed parts. Any other bare case, and
    the case itself in the shorter shape, has at most one, and none beyond `longest` blocks.
    """
    B, NH, S = case["gates"].shape
    for length in lengths(SHORT * block if 0 in (B, NH, S) else S, block, longest):
        short, one = length <= SHORT * block, min(1, longest * block // length)
        for heads in dict.fromkeys(((1, 1), (1, 2), (2, 1), (max(1, B), max(1, NH)))):
            shape = (*heads, length)
            same, changes = shaped(case, shape), _changes(case, shape)
            if heads in ((1, 1), (B, NH)):
                yield from near(_bare(same), changes, most if short and heads == (1, 1) else one)
                yield from near(same, changes, one)
            elif short:
                yield from near(same, _layout_changes(case), 1)
                yield from (with_field(same, "gates", gate, UNEVEN) for gate in ("fgate", "igate"))

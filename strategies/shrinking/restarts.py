"""Shorter cases that no step leads to: plain ones with a few parts of a failing case, the shortest first."""

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
HEAVY = {  # a one beside it is lost in the dtype, or in a format that it may be summed in
    "bfloat16": (2.0**8, 2.0**25),
    "float16": (2.0**12,),
    "float32": (2.0**25,),
    "float64": (2.0**25, 2.0**54),
}
UNEVEN = Ramp(-float(UNIT), head_step=-float(UNIT))  # each head another
SHORT = 3  # in blocks

Change = Callable[[Case], Case]


def _cotangents(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain cotangents: ones, one row, one place, constants, and those that ones are lost beside."""
    gates = case["gates"]
    yield from (Constant(1.0), Row(1.0), Edited(Constant(0.0), (((0, 0, gates.shape[-1] - 1, 0), 1.0),)))
    yield from (Constant(value) for value in (*values, 0.1))
    for value in HEAVY[gates.dtype]:
        yield Edited(Constant(1.0), (((0, 0, 0, 0), value),))
        if gates.shape[-1] > 2:  # and one where what was lost is all that is left
            yield Edited(Constant(1.0), (((0, 0, 0, 0), value), ((0, 0, 1, 0), -value)))


def _igates(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain input gates: constants, and one that ones are lost beside."""
    yield from (Constant(value) for value in dict.fromkeys((*LIFTS, *values)))
    yield from (Edited(Constant(1.0), (((0, 0, 0), value),)) for value in HEAVY[case["gates"].dtype])


def _fgates(case: Case, values: Sequence[float]) -> Iterator[Background]:
    """Yield plain forget gates: constants, and one spike, first or last."""
    S = case["gates"].shape[-1]
    restarts = RESTARTS if S <= SHORT else LONG_RESTARTS
    yield from (Constant(value) for value in dict.fromkeys((*values, *restarts)))
    yield from (Edited(Constant(0.0), (((0, 0, n), x),)) for x in values for n in dict.fromkeys((0, S - 1)))


def _set(name: str, field: str, value: object) -> Change:
    return lambda case: with_field(case, name, field, value)


def _place(name: str, n: int) -> Change:
    return lambda case: {**case, name: n}


def _bare(case: Case) -> Case:
    """Return the case with all backgrounds and layouts plain."""
    for name, field, _ in backgrounds(case):
        case = with_field(case, name, field, Constant(plainest(case[name])))
    for name, field, _ in layouts(case):
        case = with_field(case, name, field, "contiguous")
    return case


def _layout_changes(case: Case) -> list[list[Change]]:
    """Return the layouts that each tensor may have instead, where a part has strides: theirs, or strided."""
    changes = []
    for name, field, own in layouts(case):
        theirs = {layout for part, _, layout in layouts(case) if part == name} - {"contiguous"}
        others = sorted({*theirs, "strided"} - {own}) if theirs else []
        changes.append([_set(name, field, layout) for layout in others])
    return changes


def _changes(case: Case, shape: GatesShape) -> list[list[Change]]:
    """Return what each part may be changed to, for this shape: backgrounds, layouts, places."""
    plain = {"igate": _igates, "fgate": _fgates, "values": _cotangents}
    short, changes = shaped(case, shape), []
    for name, field, _ in backgrounds(case):
        values = told(case, name)[: FEW // 2]
        if name in ("gates", "cotangent"):
            instead = list(plain[field](short, values))
        else:  # beside the gates: a rival, a direction
            instead = [Constant(value) for value in dict.fromkeys((*values, *LIFTS))]
        changes.append([_set(name, field, background) for background in instead])
    places = range(min(shape[-1], SHORT) + 1)
    changes += [[_place(name, n) for n in places] for name, part in case.items() if isinstance(part, int)]
    return changes + _layout_changes(case)


def near(case: Case, changes: list[list[Change]], most: int) -> Iterator[Case]:
    """Yield the case, then with one, two, .. `most` of these changes to different parts."""
    for number in range(most + 1):
        for slots in combinations(changes, number):
            for chosen in product(*slots):
                changed = case
                for change in chosen:
                    changed = change(changed)
                yield changed


def lengths(S: int, block: int, longest: int) -> list[int]:
    """Return lengths up to S: all up to `longest` blocks, then those near the edges of kernels' blocks."""
    edges = sorted(edge + past for edge in BLOCKS for past in PAST)
    some = (*(block * n for n in range(1, longest + 1)), *edges)
    return [n for n in dict.fromkeys(some) if n <= S and n % block == 0]


def leaps(case: Case, block: int, longest: int, most: int) -> Iterator[Case]:
    """Yield shorter cases, of one head, of two, and of as many as there are.

    Bare ones with up to `most` parts changed where they are short, and with one up to `longest` blocks; the
    case as it is in that shape, with one.
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

"""Shrinking: the case that a broken law shows is as short as can be, of as few heads, and bare.

What can be is found by exhaustive search over small recipes, shortest first, which shares nothing with the
way in which dmat.testing.minimal finds its case, and goes no further than the length that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, wraps
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor

from dmat import strategies
from dmat.strategies import Constant, Cotangent, Edited, Gates, Ramp, Row, cases
from dmat.strategies.cases import Cases
from dmat.strategies.domain import Domain
from dmat.strategies.recipe import Case
from dmat.strategies.size import backgrounds
from dmat.strategies.values import Background
from dmat.testing import minimal
from dmat.testing.law import Law, Record
from dmat.testing.minimal import Failure
from dmat.testing.report import laws
from dmat.testing.running import search
from dmat.testing.subject import Implementation, Refused, Subject
from dmat.testing.verdict import Finding, LawBroken

from .zoo.mutants import MUTANTS
from .zoo.sound import masked_cumulative_sum
from .zoo.trial import subjects

LAWS = {law.name: law for law in laws()}
PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]
BY_NAME = {  # the wrong ones whose law makes its case smaller, and that are wrong on any machine
    mutant.name: mutant for mutant in MUTANTS if LAWS[mutant.law].cases.inside and mutant.device == "cpu"
}


@dataclass(frozen=True)
class Shrunk:
    """What a mutant's law made of it: the case that it showed."""

    law: Law
    subject: Subject
    case: Case

    @property
    def shape(self) -> tuple[int, int, int]:
        shape: tuple[int, int, int] = self.case["gates"].shape
        return shape

    def breaks(self, case: Case) -> bool:
        """Whether the law rejects the mutant for this case, which lies in its domain."""
        inside = self.law.cases.inside
        assert inside is not None
        if not inside(case, self.subject.domain):
            return False
        try:
            self.law.check(self.subject, **case)
        except LawBroken:
            return True
        except Refused:
            return False
        return False


def seeded(law: Law) -> Law:
    """Return the law for which an implementation that draws lots draws the same in every case."""

    @wraps(law.check)
    def check(subject: Subject, **case: Any) -> None:
        torch.manual_seed(0)
        law.check(subject, **case)

    return replace(law, check=check)


@cache
def shrunk(name: str) -> Shrunk:
    """Return what the law named beside a mutant makes of it, in the first dtype in which it rejects it."""
    torch.set_num_threads(1)
    mutant, law = BY_NAME[name], seeded(LAWS[BY_NAME[name].law])
    for profile, subject in product(PROFILES, subjects(mutant.implementation, name)):
        record = Record(law.name, name, subject.dtype, subject.device)
        if law.not_applicable(subject):
            continue
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(minimal, "MOST_SECONDS", float("inf"))  # a busy machine finds the same
                search(law, subject, record, name, profile)
        except Refused:
            continue
        except LawBroken:
            assert record.case is not None
            case: Case = {}
            exec(record.case, dict(vars(strategies)), case)
            return Shrunk(law, subject, case)
    raise AssertionError(f"{law.name} does not reject {name}")


# Small recipes: constants, one spike, two values; ones, one place, the last row, one large place

CRITICAL = (0.0, -1.0, -64.0, 21.0, -21.0, 105.0, -105.0, -746.0, torch.inf, -torch.inf, torch.nan)
FEW = (0.0, -64.0, -105.0)
HEAVY = {"bfloat16": 2.0**8, "float16": 2.0**11, "float32": 2.0**26, "float64": 2.0**55}  # beside ones
EMPTY = ((1, 1, 0), (0, 1, 1), (1, 0, 1))
HEADS = ((1, 2), (2, 1), (1, 3), (2, 2))
UNEVEN = (Ramp(-64.0, 0.0, -64.0), Ramp(1.0, 0.0, 1.0))  # each head another
SLOPE = Ramp(0.1, 0.1, 0.1)  # no order of summation like another


def fgates(S: int) -> Iterator[Background]:
    yield from (Constant(value) for value in (CRITICAL if S <= 3 else FEW))
    yield SLOPE
    yield from (Edited(Constant(1.0), (((0, 0, n), 0.0),)) for n in range(1, min(S, 3)))
    for value, place in product((-8.0, -128.0), {0, S - 1}) if S <= 3 else ():
        yield Edited(Constant(-64.0 if value < -64 else 0.0), (((0, 0, place), value),))


def igates(S: int, dtype: str) -> Iterator[Background]:
    yield Constant(0.0)
    if S <= 3:
        yield from (Constant(value) for value in (1.0, torch.inf))
        yield Edited(Constant(1.0), (((0, 0, 0), HEAVY[dtype]),))
        yield Edited(Constant(0.0), (((0, 0, 0), 64.0),))


def one_head(dtype: str, shape: tuple[int, int, int], forward: bool) -> Iterator[Gates]:
    """Yield gates of one head; forward: those too that differ in what no gradient depends on."""
    S = shape[-1]
    for igate, fgate in product(igates(S, dtype), fgates(S)):
        if igate == Constant(0.0) or (forward and isinstance(fgate, Constant)):
            yield Gates(dtype, shape, igate, fgate)
    yield Gates(dtype, shape, Constant(64.0), Constant(-64.0), "strided", "strided")


def cotangents(gates: Gates, masked: tuple[float, ...]) -> Iterator[Cotangent]:
    yield from (Cotangent(masked=value) for value in masked)
    S = gates.shape[-1]
    if gates.shape[:2] == (1, 1) and 0 < S <= 3:
        yield from (Cotangent(layout=layout) for layout in ("matrix transposed", "expanded over all"))
        yield from (Cotangent(values) for values in (Row(1.0), Constant(0.1), Constant(256.0), SLOPE))
        for heavy in {HEAVY[gates.dtype], 2.0**26} if gates.dtype != "float16" else {HEAVY["float16"]}:
            yield Cotangent(Edited(Constant(1.0), (((0, 0, 0, 0), heavy),)))
        yield Cotangent(Edited(Constant(0.0), (((0, 0, S - 1, 0), 1.0),)))
        yield Cotangent(Edited(Constant(1.0), (((0, 0, S // 2, 0), -0.001),)))
    if gates.shape[:2] == (1, 1) and S == 3:
        cancelling = (((0, 0, 0, 0), 2.0**26), ((0, 0, 1, 0), -(2.0**26)))
        yield Cotangent(Edited(Constant(1.0), cancelling))


def all_gates(dtype: str, shape: tuple[int, int, int], forward: bool) -> Iterator[Gates]:
    if shape[:2] == (1, 1) and 0 not in shape:
        yield from one_head(dtype, shape, forward)
    else:
        for layout, fgate in product(("contiguous", "strided"), (Constant(0.0), *UNEVEN)):
            yield Gates(dtype, shape, Constant(0.0), fgate, layout, layout)


def options(name: str, gates: Gates, law: Law) -> list[Any]:
    """Return what else a case of these gates may have by this name."""
    B, NH, S = gates.shape
    match name:
        case "cotangent":
            return list(cotangents(gates, (1.0, torch.inf) if law.name == "masked_cotangent" else (0.0,)))
        case "rival" | "direction":
            values = (0.0, 1.0, -torch.inf) if name == "rival" else (1.0,)
            return [replace(gates, igate=Constant(x), fgate=Constant(x)) for x in values]
        case "head":
            return list(product(range(B), range(NH)))
        case _:
            return sorted({0, S // 2, S - 1, S}) if S > 3 else list(range(S + 1))


def small_cases(found: Shrunk, shape: tuple[int, int, int]) -> Iterator[Case]:
    """Yield the small recipes of one shape, as cases of its law."""
    for gates in all_gates(found.subject.dtype, shape, "cotangent" not in found.case):
        others = [options(name, gates, found.law) for name in found.case if name != "gates"]
        yield from (dict(zip(found.case, (gates, *parts), strict=True)) for parts in product(*others))


def least(name: str, shapes: list[tuple[int, int, int]]) -> tuple[int, int, int] | None:
    """Return the first of the shapes of which some small recipe breaks the mutant's law."""
    found = shrunk(name)
    for shape in shapes:
        if any(found.breaks(case) for case in small_cases(found, shape)):
            return shape
    return None


every_mutant = pytest.mark.parametrize("name", BY_NAME)


@every_mutant
def test_the_shortest(name: str) -> None:
    """No small recipe of a smaller length, or of fewer heads, breaks the law; 0 is the largest length."""
    S = shrunk(name).shape[-1]
    longest = S if 0 not in shrunk(name).shape else 3
    one_head = [(1, 1, n) for n in range(1, longest + 1)]
    many = [(*heads, n) for n in range(1, min(longest, 3) + 1) for heads in HEADS]
    shapes = sorted([*one_head, *many], key=lambda shape: (shape[-1], shape[0] * shape[1]))
    shortest = least(name, [*shapes, *EMPTY])
    assert shortest in (shrunk(name).shape, None)  # None: small recipes do not even go so far


@every_mutant
def test_no_edit_to_spare(name: str) -> None:
    """Without any one edit of its recipes the case breaks the law no more."""
    found = shrunk(name)
    for part, field, background in backgrounds(found.case):
        edits = background.edits if isinstance(background, Edited) else ()
        for n in range(len(edits)):
            without = replace(background, edits=edits[:n] + edits[n + 1 :])  # type: ignore[type-var]
            case = {**found.case, part: replace(found.case[part], **{field: without})}
            assert not found.breaks(case), without


def way_down(kind: Cases, domain: Domain, breaks: Callable[[Case], bool], case: Case | None = None) -> str:
    """Return what becomes of a case, of the last of the ladder's if none, by a law that such cases break."""
    wrong = LawBroken(Finding("D~", (), "wrong", "right"))

    def check(case: Case) -> None:
        if breaks(case):
            raise wrong

    inside, case = kind.inside, case or [case for case in kind.ladder(domain) if breaks(case)][-1]
    assert inside is not None
    found = minimal.minimal(
        check, lambda case: inside(case, domain), domain.seq_multiple_of, Failure(case, wrong)
    )
    return ", ".join(repr(part) for part in found[-1].case.values())


WIDE = Domain(special_values=(), zero_length=False, seq_multiple_of=16)
ZERO, CLOSED = "Gates('float32', (1, 1, 1))", "Gates('float32', (1, 1, 1), fgate=Constant(-64.0))"


@pytest.mark.parametrize(
    ("kind", "domain", "least"),
    [
        (cases.GATES, Domain(), ZERO),
        (cases.GATES, WIDE, "Gates('float32', (1, 1, 16))"),
        (cases.EXACT, Domain(), CLOSED),
        (cases.CUTS, WIDE, "Gates('float32', (1, 1, 16)), 0"),
        (cases.WINDOWS, Domain(), f"{ZERO}, {ZERO}, (0, 0), 0, 0"),
        (cases.COTANGENTS, Domain(), f"{ZERO}, Cotangent()"),
        (cases.EXACT_COTANGENTS, Domain(), f"{CLOSED}, Cotangent()"),
        (cases.POWERS_OF_TWO, Domain(), f"{ZERO}, Cotangent()"),
        (cases.MASKED_COTANGENTS, Domain(), f"{ZERO}, Cotangent(masked=1.0)"),
        (cases.DIRECTIONS, Domain(), f"{ZERO}, {ZERO}, Cotangent()"),
    ],
)
def test_where_any_case_will_do(kind: Cases, domain: Domain, least: str) -> None:
    """A law that nothing keeps ends at the smallest case of its domain."""
    assert way_down(kind, domain, lambda case: True) == least


def length(case: Case) -> int:
    return int(case["gates"].shape[-1])


def forget(case: Case) -> Any:
    return case["gates"].values()[1]


@pytest.mark.parametrize(
    ("breaks", "least"),
    [
        (lambda case: length(case) >= 23, "Gates('float32', (1, 1, 23))"),
        (lambda case: length(case) == 129, "Gates('float32', (1, 1, 129))"),
        (lambda case: (forget(case) < -83).any(), "Gates('float32', (1, 1, 1), fgate=Constant(-84.0))"),
        (lambda case: 0 in case["gates"].shape, "Gates('float32', (1, 1, 0))"),
        (lambda case: case["gates"].shape[1] > 2, "Gates('float32', (1, 3, 1))"),
        (
            lambda case: case["gates"].igate_layout == "strided" and length(case) > 1,
            "Gates('float32', (1, 1, 2), igate_layout='strided')",
        ),
        (
            lambda case: (
                length(case) > 1 and (forget(case)[..., 0] < -9).any() and (forget(case)[..., 1:] == 0).any()
            ),
            "Gates('float32', (1, 1, 2), fgate=Edited(Constant(0.0), (((0, 0, 0), -10.0),)))",
        ),
    ],
)
def test_what_matters_is_all_that_is_left(breaks: Callable[[Case], bool], least: str) -> None:
    """Whatever does not matter is cut off, dropped and rounded around what does."""
    assert way_down(cases.GATES, Domain(), breaks) == least


@pytest.mark.parametrize("law", [law for law in LAWS.values() if law.cases.inside], ids=lambda law: law.name)
def test_what_a_law_takes_is_inside(law: Law) -> None:
    """The part of a case that a law takes tells whether it lies in the law's domain."""
    inside = law.cases.inside
    assert inside is not None
    assert all(inside(law.arguments(case), Domain()) for case in law.cases.ladder(Domain()))


def test_one_edit_of_two() -> None:
    """An edit that does not matter is dropped, whatever stands beneath it."""
    edits = (((0, 0, 1), 3.0), ((0, 0, 2), -9.0))
    case = {"gates": Gates("float32", (1, 1, 4), fgate=Edited(Constant(7.5), edits))}

    def breaks(case: Case) -> bool:
        f = forget(case)[0, 0]
        return len(f) == 4 and bool(f[0] == f[3] == 7.5 and f[2] == -9)

    least = way_down(cases.GATES, Domain(), breaks, case)
    assert least == "Gates('float32', (1, 1, 4), fgate=Edited(Constant(7.5), (((0, 0, 2), -9.0),)))"


@pytest.mark.parametrize("deadly", [17, 5])
def test_a_device_that_failed_for_good(deadly: int) -> None:
    """Where every call fails once one has, searching or shrinking, the first finding is shown."""
    failed = []

    def dies(igate_preact: Tensor, fgate_preact: Tensor) -> Any:
        S = igate_preact.shape[2]
        failed.extend([1] if S == deadly else [])
        if failed:
            raise RuntimeError("an illegal memory access was encountered")
        return masked_cumulative_sum(igate_preact, fgate_preact) + (S == 17)

    subject = Subject(Implementation.of("dies", dies), "float32")
    record = Record("values", "dies", "float32", "cpu")
    with pytest.raises(LawBroken):
        search(LAWS["values"], subject, record, "", PROFILES[0])
    assert record.case == "gates = Gates('float32', (1, 1, 17))"

"""Decide whether two failures have one cause. Reports show one of them, and name the other beside it.

They are taken to have one where the smallest case of the one breaks the other's law too, if need be with the
other's cotangent, or where the other's breaks the one's law. But D~ and a gradient, if one of the cases is
much longer, may be wrong by two bugs. Telling signs, a number for -inf above the diagonal, say, are compared
as well. A bug of a kernel breaks many laws in every dtype; whoever reads the report wants it once. Two bugs
that one short case shows may be taken for one: mend the first, and the next night finds the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

from dmat.strategies import Cotangent, Gates
from dmat.strategies.recipes.backgrounds import Constant, Cycle, Ramp
from dmat.strategies.recipes.recipe import Case
from dmat.testing.case_file import decoded
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.errors import DidNotEnd
from dmat.testing.fuzzing.messages import Cause
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.record import What
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding, LawBroken

Trying = Callable[[Case], AbstractContextManager[None]]
COTANGENTS = (Cotangent(Constant(1.0)), Cotangent(Cycle((1.0, -0.5, 4.0))))
MASKED = (0.0, float("nan"), 1.0)  # laws differ in what may stand above the diagonal


GENERAL = ("future", "values", "input_gradient", "forget_gradient")
NUMBER = "a number"
MUCH_LONGER = 2  # times


def symptom(finding: Finding) -> str:
    """Return what failures of one law have in common at the first look: what is wrong, where, and how."""
    computed, exact = _kinds(finding)
    return f"{finding.quantity}{_place(finding.index)}: {computed} for {exact}"


def _kinds(finding: Finding) -> tuple[str, str]:
    """Return of what kind the computed is, and of what kind the exact: without their numbers."""
    computed, exact = (_kind(text, finding.what) for text in (finding.computed, finding.exact))
    return computed, exact


def _is_vague(finding: Finding) -> bool:
    """Return whether this symptom says only that a number is wrong."""
    return _kinds(finding) == (NUMBER, NUMBER)


def _place(index: tuple[int, ...]) -> str:
    """Return where an entry (b, h, t, s) of a square lies."""
    if len(index) != 4:
        return ""
    t, s = index[-2:]
    return " above the diagonal" if t < s else " on the diagonal" if t == s else " below the diagonal"


def _kind(text: str, what: What) -> str:
    if what in ("value", "class"):
        return text if text in ("nan", "inf", "-inf") else NUMBER
    return text.partition(":")[0] if what == "raised" else re.sub(r"\d+", "#", text)[:80]


def explains(cause: Cause, entry: Law, subject: Subject, trying: Trying, parts: Case | None = None) -> bool:
    """Return whether the smallest case of this cause also breaks the law for the subject.

    parts: of a case that breaks it: those that the cause's case lacks are taken from there.
    """
    case = in_dtype(decoded(cause.recipe), subject.domain.dtype)
    if parts is not None and "gates" in case and "gates" in parts:
        fitting = parts["gates"].shape == case["gates"].shape
        others = {name: part for name, part in parts.items() if fitting or isinstance(part, Cotangent)}
        case = {
            **others,
            **{name: part for name, part in case.items() if name not in others or name == "gates"},
        }
    return any(_broken(entry, subject, whole, trying) for whole in completed(case, entry, subject))


def explained(found: Case, sign: str, cause: Cause, subject: Subject, trying: Trying) -> bool:
    """Return whether the smallest case found shows a sign of this cause, or breaks its law.

    sign: the symptom of the case. Where it is of another quantity, D~ or a gradient, than the cause's, a case
    that is much longer says nothing: it may show another bug, beside this one that shorter ones show.
    """
    alike = _quantity(sign) == _quantity(cause.symptom)
    if _break_one_law(found, decoded(cause.recipe), subject, trying):
        return True
    if sign in cause.signs or (alike and set(cause.signs) & set(signs(found, subject, trying))):
        return True
    theirs = decoded(cause.recipe)
    if (
        not alike
        and "gates" in found
        and "gates" in theirs
        and _length(found) > MUCH_LONGER * _length(theirs)
    ):
        return False
    entry = law_named(cause.cell.law, subject.kind)
    there = replace(subject, dtype=cause.cell.dtype, device=cause.cell.device)
    case = in_dtype(found, there.domain.dtype)
    return any(_broken(entry, there, whole, trying) for whole in completed(case, entry, there))


def _break_one_law(case: Case, other: Case, subject: Subject, trying: Trying) -> bool:
    """Return whether two cases of about one length break one general law in the same way."""
    if "gates" not in case or "gates" not in other:
        return False
    if max(_length(case), _length(other)) > MUCH_LONGER * min(_length(case), _length(other)):
        return False
    both = (in_dtype(one, subject.domain.dtype) for one in (case, other))
    ours, theirs = (set(ways(one, subject, trying)) for one in both)
    return bool(ours & theirs)


def alike(causes: Iterable[Cause], ended: str) -> list[Cause]:
    """Return the causes of failures that ended so: a death and a wrong number have no cause in common."""
    return [cause for cause in causes if cause.ended == ended]


def one_cause(case: Case, sign: str, cause: Cause, entry: Law, subject: Subject, trying: Trying) -> bool:
    """Return whether a shrunk failure of this law has this cause. sign: the failure's symptom."""
    return explained(case, sign, cause, subject, trying) or explains(cause, entry, subject, trying, case)


def _quantity(sign: str) -> str:
    return sign.split(" ")[0].rstrip(":")


def _length(case: Case) -> int:
    S: int = case["gates"].shape[-1]
    return max(1, S)


def signs(case: Case, subject: Subject, trying: Trying) -> tuple[str, ...]:
    """Return how this case breaks the general laws, the vague ways left out."""
    return tuple(way for way, vague in ways(case, subject, trying).items() if not vague)


def ways(case: Case, subject: Subject, trying: Trying) -> dict[str, bool]:
    """Return how this case breaks the general laws, and whether that is vague."""
    found = {}
    for name in GENERAL:
        entry = law_named(name, subject.kind)
        for whole in completed(case, entry, subject):
            broken = _broken(entry, subject, whole, trying)
            if broken is not None:
                found[symptom(broken.finding)] = _is_vague(broken.finding)
    return found


def _broken(entry: Law, subject: Subject, case: Case, trying: Trying) -> LawBroken | None:
    try:
        with trying(case):
            entry.check(subject.in_dtype(subject.dtype), **case)
    except LawBroken as broken:
        return broken
    except (Exception, DidNotEnd):  # a refusal, or the law itself at a loss: no finding
        return None
    return None


def completed(case: Case, entry: Law, subject: Subject) -> Iterator[Case]:
    """Yield the case as this law takes one, with plain parts for those it lacks, where it is allowed."""
    if "gates" not in case or entry.cases.inside is None or entry.not_applicable(subject) is not None:
        return
    plain = _plain_parts(case["gates"], subject)
    for cotangent in _cotangents(case) if "cotangent" in entry.parameters else COTANGENTS[:1]:
        whole = {**plain, **case, "cotangent": cotangent}
        if set(entry.parameters) <= set(whole):
            taken = entry.arguments(whole)
            if entry.cases.inside(taken, subject.domain):
                yield taken


def _cotangents(case: Case) -> list[Cotangent]:
    """Return the cotangent of the case, if it has one, else plain ones; each also masked in other ways."""
    own = [case["cotangent"]] if "cotangent" in case else list(COTANGENTS)
    laid = [*own, *(replace(one, layout="contiguous") for one in own)]
    return list(dict.fromkeys([*own, *(replace(one, masked=x) for one in laid for x in MASKED)]))


def _plain_parts(gates: Gates, subject: Subject) -> Case:
    S, block = gates.shape[-1], subject.contract.seq_multiple_of
    ones, others = Constant(1.0), Ramp(7.0, 1.0, 1.0)
    return {
        "rival": Gates(gates.dtype, gates.shape, others, others),
        "direction": Gates(gates.dtype, gates.shape, ones, ones),
        "head": (0, 0),
        "noise": 1,
        "t": max(S - 1, 0),
        "s": 0,
        "cut": S // block // 2 * block,
    }

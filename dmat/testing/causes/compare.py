"""Deduplicate failures: decide whether two failures have the same cause, so that the report shows it once.

One bug of a kernel breaks many laws in every dtype. Two failures A and B have the same cause if the smallest
case of A also breaks the law of B, if need be with the cotangent of B, or the other way round. There is an
exception: if one failure is in D~, the other in a gradient, and one case is much longer, there may be two
bugs. Specific signs are compared too, for example a number instead of -inf above the diagonal. Two bugs that
one short case shows may be merged: after the first is fixed, the next fuzzing run finds the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

from dmat.strategies import Cotangent, Gates
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.backgrounds import Constant, Cycle, Ramp
from dmat.strategies.recipes.qkv import KINDS, plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.shrinking.steps import shaped
from dmat.testing.case_file import decoded
from dmat.testing.causes.known import Cause
from dmat.testing.causes.trial import broken, length
from dmat.testing.counterexample.attempt import in_dtype
from dmat.testing.explain.decays import read_out
from dmat.testing.law.law import Law
from dmat.testing.law.refusal import Trying
from dmat.testing.law.subject import Subject
from dmat.testing.record import What
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import AXES, Finding

COTANGENTS = (Cotangent(Constant(1.0)), Cotangent(Cycle((1.0, -0.5, 4.0))))
MASKED = (0.0, float("nan"), 1.0)  # cotangents above the diagonal; laws allow different values there


GENERAL = ("future", "values", "input_gradient", "forget_gradient")
NUMBER = "a number"
MUCH_LONGER = 2  # times


def symptom(finding: Finding) -> str:
    """Return the key that groups failures of one law: quantity, position, and kinds of the two values."""
    computed, exact = _kinds(finding)
    return f"{finding.quantity}{_place(read_out(finding))}: {computed} for {exact}"


def _kinds(finding: Finding) -> tuple[str, str]:
    """Return the kind of the computed and of the exact value, such as a number, NaN or -inf."""
    computed, exact = (_kind(text, finding.what) for text in (finding.computed, finding.exact))
    return computed, exact


def _is_vague(finding: Finding) -> bool:
    """Whether the finding only says that a number is wrong."""
    return _kinds(finding) == (NUMBER, NUMBER)


def _place(finding: Finding) -> str:
    """Return the position of an entry (b, h, t, s) relative to the diagonal, or "" for other entries."""
    if AXES.get(finding.quantity, ())[-2:] != ("t", "s") or len(finding.index) != 4:
        return ""
    t, s = finding.index[-2:]
    return " above the diagonal" if t < s else " on the diagonal" if t == s else " below the diagonal"


def _kind(text: str, what: What) -> str:
    if what in ("value", "class"):
        plain = text.lstrip("+")
        return plain if plain in ("NaN", "inf", "-inf") else NUMBER
    return text.partition(":")[0] if what == "raised" else re.sub(r"\d+", "#", text)[:80]


def explains(cause: Cause, law: Law, subject: Subject, trying: Trying, parts: Case | None = None) -> bool:
    """Whether the smallest case of this cause also breaks the law `law` for the subject.

    parts: a case that breaks the law. If its gates have the shape of the cause's gates, all its other parts
    are used; otherwise only its cotangent is, in that shape.
    """
    case = in_dtype(decoded(cause.recipe), subject.domain.dtype)
    if parts is not None and "gates" in case and "gates" in parts:
        fitting = parts["gates"].shape == case["gates"].shape
        given = parts if fitting else shaped(parts, case["gates"].shape)
        others = {name: part for name, part in given.items() if fitting or isinstance(part, Cotangent)}
        case = {
            **others,
            **{name: part for name, part in case.items() if name not in others or name == "gates"},
        }
    return any(broken(law, subject, whole, trying) for whole in completed(case, law, subject))


def explained(found: Case, sign: str, cause: Cause, subject: Subject, trying: Trying) -> bool:
    """Whether the shrunk case shows a sign of this cause, or breaks the law of this cause.

    sign: the symptom of the case. If the symptom and the cause concern different quantities (D~ or a
    gradient), a case that is much longer proves nothing, because it may also show another bug.
    """
    alike = _quantity(sign) == _quantity(cause.symptom)
    if _break_one_law(found, decoded(cause.recipe), subject, trying):
        return True
    if sign in cause.signs or (alike and set(cause.signs) & set(signs(found, subject, trying))):
        return True
    theirs = decoded(cause.recipe)
    if not alike and length(found) > MUCH_LONGER * length(theirs):
        return False
    law = law_named(cause.cell.law, subject.kind)
    there = replace(subject, dtype=cause.cell.dtype, device=cause.cell.device)
    case = in_dtype(found, there.domain.dtype)
    return any(broken(law, there, whole, trying) for whole in completed(case, law, there))


def _break_one_law(case: Case, other: Case, subject: Subject, trying: Trying) -> bool:
    """Whether two cases of similar length break the same general law in the same way, even a vague one."""
    if "gates" not in case or "gates" not in other:
        return False
    if max(length(case), length(other)) > MUCH_LONGER * min(length(case), length(other)):
        return False
    both = (in_dtype(one, subject.domain.dtype) for one in (case, other))
    ours, theirs = (set(ways(one, subject, trying)) for one in both)
    return bool(ours & theirs)


def alike(causes: Iterable[Cause], ended: str) -> list[Cause]:
    """Return the causes that ended in the same way. A crash and a wrong number never have the same cause."""
    return [cause for cause in causes if cause.ended == ended]


def one_cause(case: Case, sign: str, cause: Cause, law: Law, subject: Subject, trying: Trying) -> bool:
    """Whether a shrunk failure of the law `law` has this cause. sign: the symptom of the failure."""
    return explained(case, sign, cause, subject, trying) or explains(cause, law, subject, trying, case)


def _quantity(sign: str) -> str:
    return sign.split(" ")[0].rstrip(":")


def signs(case: Case, subject: Subject, trying: Trying) -> tuple[str, ...]:
    """Return the symptoms with which this case breaks the general laws, without the vague ones."""
    return tuple(way for way, vague in ways(case, subject, trying).items() if not vague)


def ways(case: Case, subject: Subject, trying: Trying) -> dict[str, bool]:
    """Return the symptoms with which this case breaks the general laws, and whether each is vague."""
    found = {}
    for name in GENERAL:
        law = law_named(name, subject.kind)
        for whole in completed(case, law, subject):
            error = broken(law, subject, whole, trying)
            if error is not None:
                found[symptom(error.finding)] = _is_vague(error.finding)
    return found


def completed(case: Case, law: Law, subject: Subject) -> Iterator[Case]:
    """Yield the case in the form that this law takes. Missing parts get plain values.

    Yield nothing if the law does not apply to the subject or the completed case lies outside its domain.
    """
    if "gates" not in case or law.cases.inside is None or law.not_applicable(subject) is not None:
        return
    plain = _plain_parts(case["gates"], subject)
    for cotangent in _cotangents(case) if "cotangent" in law.parameters else COTANGENTS[:1]:
        for qkv in _products(case, subject):
            whole = {**plain, **case, **qkv, "cotangent": cotangent}
            if set(law.parameters) <= set(whole):
                taken = law.arguments(whole)
                if law.cases.inside(taken, subject.domain):
                    yield taken
                    break


def _cotangents(case: Case) -> list[Cotangent]:
    """Return the case's own cotangent, or plain ones if it has none. Each also with other `masked` values."""
    own = [case["cotangent"]] if "cotangent" in case else list(COTANGENTS)
    laid = [*own, *(replace(one, layout="contiguous") for one in own)]
    return list(dict.fromkeys([*own, *(replace(one, masked=x) for one in laid for x in MASKED)]))


def _products(case: Case, subject: Subject) -> Iterator[Case]:
    """Yield the case's own q, k and v, then plain ones of each kind: a law may take one kind alone."""
    yield {}
    if "qkv" in case:
        domain, S = cast(FusedDomain, subject.domain), case["gates"].shape[-1]
        for kind in KINDS:
            yield {"qkv": plain_qkv(domain, S, kind, seed=1, pull=case["qkv"].pull)}


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

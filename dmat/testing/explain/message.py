"""The message of a broken law: the finding, the error, the failing entries, the case, the next steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from dmat.strategies import Gates
from dmat.strategies.recipes.recipe import Case, shown
from dmat.strategies.shrinking.steps import shaped
from dmat.testing.bounds.formats import Format
from dmat.testing.contract import DTILDE
from dmat.testing.errors import DidNotEnd
from dmat.testing.explain.decays import read_out
from dmat.testing.explain.hints import hints
from dmat.testing.explain.pattern import failing_entries
from dmat.testing.explain.place import likely_place
from dmat.testing.explain.plain import plain_torch
from dmat.testing.explain.tries import Tries, Trying
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Example, Finding, LawBroken, as_array

if TYPE_CHECKING:
    from dmat.testing.law.law import Law

INCONSTANT = "Tried again, this case held: the implementation does not answer the same call alike."
LONGER = (64, 40, 24)  # lengths S at which the same gates are tried again
MOST_GATES = 8  # gates of a window that are listed


def longer(law: Law, subject: Subject, case: Case, trying: Trying) -> Example | None:
    """Return an Example: the lengthened case, if it still breaks the law. A pattern needs length to show.

    trying: the guard of every try. The subject's own record of errors stays as it is.
    """
    inside, quiet = law.cases.inside, subject.in_dtype(subject.dtype)
    gates = case.get("gates")
    if inside is None or gates is None or 0 in gates.shape:
        return None
    B, NH, S = gates.shape
    block = subject.contract.seq_multiple_of
    for length in dict.fromkeys(n // block * block for n in LONGER):
        if length < 2 * S:
            continue
        wider = shaped(case, (B, NH, length))
        try:
            if inside(wider, subject.domain):
                with trying(wider):
                    law.check(quiet, **wider)
        except LawBroken as broken:
            return Example(wider, broken.finding)
        except DidNotEnd:
            return None
        except Exception:  # a refusal, or a recipe that cannot have this length
            continue
    return None


def what_is_tried(
    law: Law, subject: Subject, examples: Sequence[Example], found: Sequence[Example], trying: Trying
) -> list[str]:
    """Return the sentences of hints.py on a failure. trying: the guard of every try."""
    return _whatever_it_says(lambda: hints(Tries(law, subject, trying), examples, found))


def message(
    law: Law,
    subject: Subject,
    examples: Sequence[Example],
    *,
    reproducible: bool,
    tried: Sequence[str] = (),
    after: Sequence[str],
) -> str:
    """Return the message.

    examples: the smallest case, then perhaps a longer one. tried: the lines of `what_is_tried`. after: the
    last lines.
    """
    case, finding = examples[0].case, examples[0].finding
    where = f"{subject.implementation.name}, {subject.dtype} on {subject.device}"
    lines = [
        f"{law.name}: {law.statement}",
        f"does not hold for {where}:",
        *(f"  {line}" for line in finding.lines()),
        *(f"    {line}" for line in _whatever_it_says(lambda: beside(subject, case, finding))),
        *(f"  {line}" for line in _whatever_it_says(lambda: wrong_entries(examples))),
        *(f"  {line}" for line in tried),
        *(f"  {line}" for line in _whatever_it_says(lambda: likely_place(examples))),
        "on the case",
        "  from dmat.strategies import *",
        *(f"  {line}" for line in shown(case).splitlines()),
    ]
    lines += building(case, subject.device)
    if not reproducible:
        lines.append(INCONSTANT)
    return "\n".join([*lines, *after])


def building(case: Case, device: str) -> list[str]:
    """Return the lines of code that build the tensors of a D~ case; none for a case with a QKV recipe."""
    if "qkv" in case or "gates" not in case:
        return []
    lines = [f"  igate_preact, fgate_preact = gates.build({device!r})"]
    return lines + ([f"  G = cotangent.build(gates, {device!r})"] if "cotangent" in case else [])


def _whatever_it_says(explain: Callable[[], Iterable[str]]) -> list[str]:
    """Return the lines of an explanation; if it raises, a line that says so. The finding is reported."""
    try:
        with np.errstate(all="ignore"):
            return list(explain())
    except Exception as error:
        return [f"(no more can be said: {type(error).__name__}: {error})"]


def wrong_entries(examples: Sequence[Example]) -> Iterator[str]:
    """Yield a line for each Example that says which entries fail."""
    for example in examples:
        fitted = failing_entries(read_out(example.finding))
        if fitted is not None:
            gates = example.case.get("gates")
            length = f" at S = {gates.shape[-1]}" if len(examples) > 1 and gates is not None else ""
            yield f"wrong{length}: {fitted}"


# Units in the last place, the result of plain torch, and the gates of the window


def beside(subject: Subject, case: Case, finding: Finding) -> Iterator[str]:
    """Yield the error in units in the last place, plain torch's result, and the gates that are read."""
    gates, evidence = case.get("gates"), finding.evidence
    if gates is None or evidence is None:
        return
    plain = plain_torch(subject, case, finding.quantity)
    plain = plain if plain is not None and _same_call(plain, finding) else None
    form = cast(DtildeSubject | FusedSubject, subject).rounding.output
    there = None if plain is None else float(plain[finding.index])
    yield from units(form, finding, float(evidence.exact[finding.index]), there)
    if plain is not None:
        yield from _plain_torch(subject, finding, float(plain[finding.index]))
        yield from _gates_of(subject, case, read_out(finding))


def _same_call(plain: Array, finding: Finding) -> bool:
    """Return whether the law judged this plain call: its exact value is about that of the formula."""
    evidence = finding.evidence
    if evidence is None or plain.shape != evidence.exact.shape or len(finding.index) != plain.ndim:
        return False
    here, exact = plain[finding.index], evidence.exact[finding.index]
    alike = np.isclose(here, exact, rtol=0.1, atol=0.0) or not np.isfinite(exact) or not np.isfinite(here)
    return bool(alike or finding.quantity in ("D~", "di", "df"))


def units(form: Format, finding: Finding, exact: float, plain: float | None = None) -> Iterator[str]:
    """Yield the error and the allowed error in units in the last place of the exact value in this format.

    plain: what torch's formula gives for the entry.
    """
    if finding.error is None or not finding.allowed:
        return
    if not np.isfinite(exact) or abs(exact) < form.smallest_normal:
        return
    unit = 2 * form.u * 2.0 ** np.floor(np.log2(abs(exact)))
    error, allowed = (_counted(x / unit) for x in (finding.error, finding.allowed))
    torchs = ""
    if plain is not None and np.isfinite(plain):
        torchs = f"; torch's formula is {_counted(abs(plain - exact) / unit)} off"
    yield f"units     {error} in the last place of {form.name}, {allowed} allowed{torchs}"


def _counted(units: float) -> str:
    return f"{units:.2g}" if units < 100 or units >= 1e6 else f"{units:.0f}"


def _gates_of(subject: Subject, case: Case, finding: Finding) -> Iterator[str]:
    """Yield the gates that an entry of D~ or exp(D~), or of a gate's gradient, reads."""
    forget = "f" if subject.kind == DTILDE else subject.name_of("g")
    igate = subject.kind == DTILDE or getattr(subject.contract, "igate", False)
    if finding.quantity in ("D~", "exp(D~)") and len(finding.index) == 4:
        b, h, t, s = finding.index
        yield f"gates     {_gates(case['gates'], (b, h), t, s, forget, igate=igate)}"
    elif finding.quantity in ("di", "df", "dl", "dalpha", "ddt"):
        index = finding.index if len(finding.index) == 4 else (*finding.index, 0)
        gate = as_array(subject.gates_of_case(case)[finding.quantity != "di"])[index]
        place = "k" if len(finding.index) == 3 else f"k, d={index[3]}"
        yield f"gates     {'i[s]' if finding.quantity == 'di' else f'{forget}[{place}]'} = {gate.item()!r}"


def _gates(gates: Gates, head: tuple[int, int], t: int, s: int, forget: str, *, igate: bool) -> str:
    """Return i[s], if the kernel takes it, and f over the window s+1 .. t, at most MOST_GATES of them."""
    inputs, fgate = gates.values()
    window = fgate[(*head, slice(s + 1, t + 1))].tolist()
    words = f"i[{s}] = {inputs[(*head, s)].item()!r}, " if igate else ""
    if not window:
        return f"{words}no forget gate"
    if len(set(map(repr, window))) == 1 and len(window) > 1:
        return f"{words}{forget}[{s + 1}..{t}] = {window[0]!r}"
    many = ", ..." if len(window) > MOST_GATES else ""
    some = ", ".join(map(repr, window[:MOST_GATES]))
    return (
        f"{words}{forget}[{s + 1}..{t}] = {some}{many}"
        if len(window) > 1
        else f"{words}{forget}[{t}] = {some}"
    )


def _plain_torch(subject: Subject, finding: Finding, value: float) -> Iterator[str]:
    """Yield the value that the formula in plain torch gives for this entry, and its error."""
    exact = finding.evidence.exact[finding.index] if finding.evidence else np.nan
    if finding.allowed and np.isfinite(value) and np.isfinite(exact):
        times = f" (error {abs(value - exact) / finding.allowed:.2g} x the allowed)"
    else:
        times = ""
    by = f"a masked cumulative sum in {subject.dtype}" if subject.kind == DTILDE else "the formula in float32"
    if subject.kind != DTILDE and subject.dtype == "float64":
        by = "the formula in float64"
    yield f"torch     {value!r}{times} by {by}"

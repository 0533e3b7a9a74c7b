"""The message of a broken law: the finding, the error, the failing entries, the case, the next steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dmat.reference import masked_cumulative_sum
from dmat.strategies import Cotangent, Gates
from dmat.strategies.recipes.recipe import Case, shown
from dmat.strategies.shrinking.steps import shaped
from dmat.testing.errors import DidNotEnd
from dmat.testing.explain.decays import read_out
from dmat.testing.explain.hints import hints
from dmat.testing.explain.pattern import failing_entries
from dmat.testing.explain.tries import Tries, Trying
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


# The gates of the window, and the result of plain torch


def beside(subject: Subject, case: Case, finding: Finding) -> Iterator[str]:
    """Yield plain torch's result for the entry, in the same dtype, and the gates that the entry reads."""
    gates, evidence = case.get("gates"), finding.evidence
    if gates is None or evidence is None:
        return
    B, NH, S = gates.shape
    vector, matrix = (B, NH, S), (B, NH, S, S)
    if finding.quantity == "D~" and evidence.computed.shape == matrix:
        yield from _plain_torch(subject, case, finding)
        b, h, t, s = finding.index
        yield f"gates     {_gates(gates, (b, h), t, s)}"
    if finding.quantity in ("di", "df") and evidence.computed.shape == vector and "cotangent" in case:
        yield from _plain_torch(subject, case, finding)
        b, h, k = finding.index
        gate = gates.values()[finding.quantity == "df"][b, h, k].item()
        name = "f[k]" if finding.quantity == "df" else "i[s]"
        yield f"gates     {name} = {gate!r}"


def _gates(gates: Gates, head: tuple[int, int], t: int, s: int) -> str:
    """Return i[s] and f over the window s+1 .. t, at most MOST_GATES different ones."""
    igate, fgate = gates.values()
    window = fgate[(*head, slice(s + 1, t + 1))].tolist()
    words = f"i[{s}] = {igate[(*head, s)].item()!r}"
    if not window:
        return f"{words}, no forget gate"
    if len(set(map(repr, window))) == 1 and len(window) > 1:
        return f"{words}, f[{s + 1}..{t}] = {window[0]!r}"
    many = ", ..." if len(window) > MOST_GATES else ""
    some = ", ".join(map(repr, window[:MOST_GATES]))
    return f"{words}, f[{s + 1}..{t}] = {some}{many}" if len(window) > 1 else f"{words}, f[{t}] = {some}"


def _plain_torch(subject: Subject, case: Case, finding: Finding) -> Iterator[str]:
    """Yield the value that a masked cumulative sum in plain torch gives for this entry, and its error."""
    value = float(_computed_by_plain_torch(case, finding.quantity)[finding.index])
    exact = finding.evidence.exact[finding.index] if finding.evidence else np.nan
    if finding.allowed and np.isfinite(value) and np.isfinite(exact):
        times = f" (error {abs(value - exact) / finding.allowed:.2g} x the allowed)"
    else:
        times = ""
    yield f"torch     {value!r}{times} by a masked cumulative sum in {subject.dtype}"


def _computed_by_plain_torch(case: Case, quantity: str) -> Array:
    igate, fgate = (gate.requires_grad_() for gate in case["gates"].dense())
    output = masked_cumulative_sum(igate, fgate)
    if quantity == "D~":
        return as_array(output)
    cotangent: Cotangent = case["cotangent"]
    found = torch.autograd.grad(output, (igate, fgate), cotangent.build(case["gates"]).contiguous())
    return as_array(found[quantity == "df"])[..., 0]

"""Write the end of a repro script: torch code that compares the wrong entry with its exact value."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dmat.testing.explain.repro.literals import listed, number
from dmat.testing.explain.repro.transcript import Element, Transcript
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Evidence, Finding

LARGEST_SHOWN = 8  # matrices of at most this many rows and columns are printed whole


def ending(finding: Finding, recorded: Transcript) -> list[str] | None:
    """Return the code that compares and exits, or None if this finding cannot be checked by such code."""
    if finding.evidence is not None:
        check = _entry(finding, finding.evidence, recorded)
    else:
        check = _whole(finding, recorded)
    if check is None:
        return None
    verdict = ['print("BROKEN" if wrong else "FIXED")', "sys.exit(1 if wrong else 0)"]
    return [f"print({finding.lines()[0]!r})", *check, *verdict]


def _whole(finding: Finding, recorded: Transcript) -> list[str] | None:
    """Return the check of a finding without entries, or None."""
    if finding.what == "raised":
        return ["wrong = False  # had it raised, this line would not be reached"]
    if finding.what == "died":
        return ["wrong = died"]
    last = recorded.latest("o" if finding.quantity == "o" else "dtilde")
    if finding.what == "memory":
        return [_memory(finding, last)]
    return _shape(finding, last, recorded)


def _memory(finding: Finding, last: str) -> str:
    """Return the check of the memory: that the last result shares with an input, or the peak of the calls."""
    if finding.quantity == "peak memory":
        return f"wrong = taken > {finding.detail}"
    return f"wrong = {last}.untyped_storage().data_ptr() == {finding.detail}.untyped_storage().data_ptr()"


def _shape(finding: Finding, last: str, recorded: Transcript) -> list[str] | None:
    """Return the check of a tensor's shape, dtype, device or layout, or None if its variable is unknown."""
    quantity, exact = finding.quantity, finding.exact
    if finding.detail == "layout":
        return [f"wrong = {last}.layout != torch.strided"]
    if quantity in ("D~", "o"):
        return [f"wrong = unlike(described({last}), {exact!r})"]
    if quantity in ("di", "df"):
        of = recorded.latest(quantity)
        three = f"str((tuple({of}.shape), {of}.dtype, {of}.device))"
        two = f'f"{{tuple({of}.shape)}} {{{of}.dtype}}"'
        return [f"wrong = unlike({two if finding.detail == 'shape, dtype' else three}, {exact!r})"]
    return None


def _entry(finding: Finding, evidence: Evidence, recorded: Transcript) -> list[str] | None:
    """Return the check of one entry; if the matrices are small, print both first. None if not recorded."""
    index = finding.index
    computed = recorded.element(evidence.computed, index)
    truth = None if evidence.truth is None else recorded.element(evidence.truth, index)
    if computed is None:
        return None
    if truth is not None and truth.variable.given:
        truth = None  # an input may have changed since the read: compare with a number
    names = _names(computed, truth, recorded)
    mine = f"float({names[0]}[{listed(computed.index)}])"
    shown = _matrices(finding, evidence, recorded, names)
    if truth is not None:
        times = "" if evidence.times == 1 else f"{evidence.times:g} * "
        return [*shown, f"wrong = unlike({mine}, {times}float({names[1]}[{listed(truth.index)}]))"]
    if evidence.truth is not None:
        return [*shown, f"wrong = unlike({mine}, {number(float(evidence.exact[index]))})"]
    overflow = evidence.overflow is not None and bool(evidence.overflow[index])
    more = ", may_overflow=True" if overflow else ""
    if finding.what == "class" and finding.detail:
        return [*shown, f"wrong = of_another_class({mine}, {finding.detail!r}{more})"]
    allowed = number(float(evidence.allowed[index]))
    return [*shown, f"wrong = out_of_bound({mine}, {_decimal(finding, evidence)!r}, {allowed}{more})"]


def _decimal(finding: Finding, evidence: Evidence) -> str:
    """Return the exact value as text that Fraction can parse, or as repr of inf or nan."""
    try:
        Fraction(finding.exact)
    except ValueError:
        return repr(float(evidence.exact[finding.index]))
    return finding.exact


def _names(computed: Element, truth: Element | None, recorded: Transcript) -> list[str]:
    """Return the variables of both elements.

    If calls after the law's read may change a variable, return a copy made at the read.
    """
    elements = [computed] if truth is None else [computed, truth]
    later = [p for p in elements if not p.variable.given and p.seen.calls < recorded.calls]
    latest_first = sorted(later, key=lambda p: -p.seen.lines)
    kept = {id(element): recorded.keep(element) for element in latest_first}
    return [kept.get(id(element), element.variable.name) for element in elements]


def _matrices(finding: Finding, evidence: Evidence, recorded: Transcript, names: list[str]) -> list[str]:
    """Return the lines that print the head of the entry, computed beside exact; none if it is large."""
    if len(finding.index) < 3:
        return []
    head = finding.index[:2]
    mine = _block(evidence.computed, head, names[0], recorded)
    if max(evidence.computed[head].shape) > LARGEST_SHOWN or mine is None:
        return []
    exact = None
    if evidence.truth is not None and len(names) > 1:
        exact = _block(evidence.truth, head, names[1], recorded)
    if exact is not None and evidence.times != 1:
        exact = f"{evidence.times:g} * {exact}"
    if exact is not None:
        return [f"side_by_side({mine}, {exact})"]
    rows = np.atleast_2d(evidence.exact[head]).tolist()
    lines = [f"    [{', '.join(number(float(f'{x:.9g}')) for x in row)}]," for row in rows]
    return ["exact = [", *lines, "]", f"side_by_side({mine}, exact)"]


def _block(array: Array, head: tuple[int, ...], name: str, recorded: Transcript) -> str | None:
    """Return an expression for this head of an array, as a matrix; None if it is no block of a variable."""
    rest = array.shape[2:]
    first = recorded.element(array, (*head, *(0 for _ in rest)))
    last = recorded.element(array, (*head, *(n - 1 for n in rest)))
    if first is None or last is None:
        return None
    spans = [b - a + 1 for a, b in zip(first.index, last.index, strict=True)]
    if min(spans) < 1 or math.prod(spans) != math.prod(rest):
        return None
    shape, start, leading = first.variable.tensor.shape[-2:], first.index[-2:], listed(first.index[:-2])
    if start == (0, 0) and tuple(shape) == rest:
        return f"{name}[{leading}]"
    if start == (0, 0) and tuple(shape) == (*rest, 1):
        return f"{name}[{leading}].T"
    slices = [f"{a}:{a + n}" if n > 1 else str(a) for a, n in zip(first.index, spans, strict=True)]
    rows, columns = rest if len(rest) == 2 else (1, rest[0])
    return f"{name}[{', '.join(slices)}].reshape({rows}, {columns})"

"""The report of `dmat grade`: a table for people, and JSON for programs.

The schema of the JSON is grade.schema.json in this folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmat.testing.contract.fused import implied_grad_scope
from dmat.testing.grade.agreement import PAIRS
from dmat.testing.grade.dtilde import QUANTITIES
from dmat.testing.grade.result import Graded, GradeResult, IdentityResult, InverseResult, LedgerResult
from dmat.testing.kernel.fused import LAST
from dmat.testing.output import in_places, plain, written
from dmat.testing.record import text_of


def exit_code(graded: Sequence[Graded]) -> int:
    """Return 0 if all implementations were graded in all dtypes, else 2."""
    return 2 if not graded or any(g.reason for one in graded for g in one.grades) else 0


def write_json(graded: Sequence[Graded], file: Path) -> None:
    """Write the grades atomically, as a JSON list."""
    written(text_of(list(graded), indent=2), file)


def show(graded: Sequence[Graded], console: Console) -> None:
    """Print one row per implementation and dtype, the legend, and notes on failures.

    An implementation that cannot be called in any dtype gets one line.
    """
    for one in graded:
        if _uncallable(one):
            plain(console, f"COULD NOT BE GRADED: {one.implementation} {one.grades[0].reason}")
    graded = [one for one in graded if not _uncallable(one)]
    if not graded:
        return
    for one in graded:
        console.print(_table(one))
        for further in (_inverse(one), _identity(one)):
            if further is not None:
                console.print()
                console.print(further)
    for line in _legend(graded):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for one in graded:
        if one.contract.get("reads"):
            plain(console, f"\ndeclared of {one.implementation}: {_declared(one.contract)}")
        without = [g for g in one.grades if g.uncallable]
        if without:
            where = in_places((g.dtype, g.device) for g in without)
            plain(console, f"\nnot graded: {one.implementation}, {where}: {without[0].reason}")
        for grade in [g for g in one.grades if g not in without]:
            for line in _notes(one.implementation, grade):
                plain(console, line)


def _uncallable(one: Graded) -> bool:
    return all(grade.uncallable for grade in one.grades)


WIDTHS, OF_PAIRS = (10, 25, 25), (10, 8, 25, 25)  # minimum widths of the columns, so that tables align


def _declared(contract: dict[str, object]) -> str:
    """Return the accuracy class that a fused kernel's contract declares."""
    scope, wide = contract.get("error_scope", "window"), contract.get("accumulates_in") or "float32"
    shown = f"chunk {scope}" if isinstance(scope, int) else scope
    if contract.get("reads") == "delta":
        doubling, narrow = contract.get("doubling"), contract.get("inverse_in")
        way = "" if doubling is None else f"; inverse powers of {doubling}"
        return f"forward and gradients {shown}, {wide}{way}" + (f"; inverse in {narrow}" if narrow else "")
    rows = contract.get("grad_scope") or implied_grad_scope(scope)
    graded = "window" if rows == "rectangle" else rows
    return f"forward {shown}, {wide}; gradients {graded} (grad_scope {rows})"


def _table(one: Graded) -> Table:
    """Return the table of the accuracy classes."""
    columns = dict(zip(("dtype", *QUANTITIES), WIDTHS, strict=True))
    return _rows(one, columns, lambda grade: [_cells(grade)], Text(one.implementation))


def _inverse(one: Graded) -> Table | None:
    """Return the table of how a delta rule inverts I + A; None if nothing is inverted."""
    if not any(grade.inverse for grade in one.grades):
        return None
    columns = dict(zip(("dtype", "inverse of I + A"), WIDTHS, strict=False))
    return _rows(one, columns, lambda grade: [[_class(grade.inverse)]] if grade.inverse else [])


def _identity(one: Graded) -> Table | None:
    """Return the table of the pairs of calls that should give the same bits; None if there is none."""
    if not any(grade.identity for grade in one.grades):
        return None
    columns = dict(zip(("dtype", "pair", "result", "gradients"), OF_PAIRS, strict=True))
    return _rows(one, columns, lambda grade: list(_pairs(grade.identity)))


def _rows(
    one: Graded,
    columns: Mapping[str, int],
    cells: Callable[[GradeResult], list[list[Text]]],
    title: Text | None = None,
) -> Table:
    many = len({g.device for g in one.grades}) > 1
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in columns.items():
        table.add_column(name, no_wrap=True, min_width=width)
    for grade in one.grades:
        site = f"{grade.dtype} {grade.device}" if many else grade.dtype
        for number, row in enumerate(cells(grade)):
            table.add_row("" if number else site, *row)
    return table


def _cells(grade: GradeResult) -> list[Text]:
    """Return the accuracy classes of a grade."""
    if grade.reason:
        return [Text("not graded", style="bold red")]
    return [_class(ledger) for ledger in grade.ledgers().values()]


def _ledgers(grade: GradeResult) -> dict[str, LedgerResult | InverseResult | None]:
    """Return what was found by quantity; that of the inverse only if there is one."""
    inverse = {} if grade.inverse is None else {"inverse": grade.inverse}
    return {**grade.ledgers(), **inverse}


def _pairs(identity: Sequence[IdentityResult]) -> Iterable[list[Text]]:
    """Yield a row for each pair: how far apart the outputs and states are, and the gradients."""
    for pair in dict.fromkeys(one.pair for one in identity):
        own = [one for one in identity if one.pair == pair]
        results = [one for one in own if one.quantity in ("D~", "o") or one.quantity.startswith(LAST)]
        gradients = [one for one in own if one not in results]
        yield [Text(pair), _apart(results), _apart(gradients)]


def _apart(found: Sequence[IdentityResult]) -> Text:
    """Show "same bits", or the largest difference, the result that has it, and from which length on."""
    different = [one for one in found if not one.same_bits]
    if not different:
        return Text("same bits" if found else "-", style="" if found else "dim")
    worst = max(different, key=lambda one: math.inf if one.ulps is None else one.ulps)
    length = min(one.from_length or 0 for one in different)
    return Text(f"{_size(worst)} ({worst.quantity}), S >= {length}")


def _size(worst: IdentityResult) -> str:
    if worst.raised:
        return "no result"
    return "no number" if worst.ulps is None else f"{worst.ulps:,.0f} ulp" + ("" if worst.ulps == 1 else "s")


def _class(ledger: LedgerResult | InverseResult | None) -> Text:
    """Show the strictest class survived and its worst error over bound."""
    if ledger is None:
        return Text("not promised", style="dim")
    if ledger.strictest is None:
        return Text("none", style="bold red")
    return Text(f"{ledger.strictest!s:20} {ledger.classes[0].worst or 0:.2f}")


def _legend(graded: Sequence[Graded]) -> Iterable[str]:
    yield ""
    yield "forward, gradients: the strictest accuracy class survived, the worst error over its bound"
    grades = [g for one in graded for g in one.grades if not g.reason]
    found = [ledger.strictest for g in grades for ledger in g.ledgers().values() if ledger]
    if any(accuracy and accuracy.gates == "absolute" for accuracy in found):
        yield '*: with gates="absolute" only: log sigmoid, or its derivative, is relatively wrong'
    if any(grade.inverse for grade in grades):
        yield "powers of b: powers of A, multiplied within blocks of b rows; the format is that of operands"
    pairs = {one.pair for grade in grades for one in grade.identity}
    if pairs:
        yield "same bits, or the largest difference in units of the last place, and from which length on:"
    yield from (f"{name}: {meaning}" for name, meaning in PAIRS.items() if name in pairs)


def _notes(implementation: str, grade: GradeResult) -> Iterable[str]:
    """Yield why there is no grade. For a quantity in no class, yield the failure of the widest class."""
    where = f"{implementation}, {grade.dtype} on {grade.device}"
    if grade.reason:
        yield f"\nnot graded: {where}: {grade.reason}"
    for quantity, ledger in _ledgers(grade).items():
        if ledger and ledger.strictest is None:
            widest = ledger.classes[-1]
            yield f"\nnone: the {quantity} of {where} is in no class; even the widest fell:"
            yield from (f"  {line}" for line in (widest.finding or "").splitlines())
            yield "on the case"
            yield from (
                f"  {line}" for line in ("from dmat.strategies import *", *(widest.case or "").splitlines())
            )

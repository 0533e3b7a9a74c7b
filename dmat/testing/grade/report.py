"""The report of `dmat grade`: a table for people, and JSON for programs.

The schema of the JSON is grade.schema.json in this folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmat.testing.contract.fused import implied_grad_scope
from dmat.testing.grade.dtilde import QUANTITIES
from dmat.testing.grade.result import Graded, GradeResult, LedgerResult
from dmat.testing.grade.traits import TRAITS
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


WIDTHS = (10, 25, 25, 7, 7)  # minimum widths of the columns: 80 characters together, so that the tables align


def _declared(contract: dict[str, object]) -> str:
    """Return the accuracy class that a fused kernel's contract declares."""
    scope, wide = contract.get("error_scope", "window"), contract.get("accumulates_in") or "float32"
    shown = f"chunk {scope}" if isinstance(scope, int) else scope
    if contract.get("reads") == "delta":
        return f"forward and gradients {shown}, {wide}"
    rows = contract.get("grad_scope") or implied_grad_scope(scope)
    graded = "window" if rows == "rectangle" else rows
    return f"forward {shown}, {wide}; gradients {graded} (grad_scope {rows})"


def _table(one: Graded) -> Table:
    many = len({g.device for g in one.grades}) > 1
    title = Text(one.implementation)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in zip(("dtype", *QUANTITIES, *TRAITS), WIDTHS, strict=True):
        table.add_column(name, no_wrap=True, min_width=width)
    for grade in one.grades:
        site = f"{grade.dtype} {grade.device}" if many else grade.dtype
        table.add_row(site, *_cells(grade))
    return table


def _cells(grade: GradeResult) -> list[Text]:
    if grade.reason:
        return [Text("not graded", style="bold red")]
    return [*(_class(ledger) for ledger in grade.ledgers().values()), *(_alone(grade, t) for t in TRAITS)]


def _class(ledger: LedgerResult | None) -> Text:
    """Show the strictest class survived and its worst error over bound."""
    if ledger is None:
        return Text("not promised", style="dim")
    if ledger.strictest is None:
        return Text("none", style="bold red")
    return Text(f"{ledger.strictest!s:20} {ledger.classes[0].worst or 0:.2f}")


def _alone(grade: GradeResult, trait: str) -> Text:
    """Show which results are batch-invariant: "same" for all, "D~ only" for the forward, else "differs"."""
    said = {t.quantity: t.holds for t in grade.conduct if t.trait == trait}
    if not said:
        return Text("-", style="dim")
    return Text("same" if all(said.values()) else "D~ only" if said["forward"] else "differs")


def _legend(graded: Sequence[Graded]) -> Iterable[str]:
    yield ""
    yield "forward, gradients: the strictest accuracy class survived, the worst error over its bound"
    grades = [g for one in graded for g in one.grades if not g.reason]
    found = [ledger.strictest for g in grades for ledger in g.ledgers().values() if ledger]
    if any(accuracy and accuracy.gates == "absolute" for accuracy in found):
        yield '*: with gates="absolute" only: log sigmoid, or its derivative, is relatively wrong'
    yield from (f"{name}: {meaning}" for name, meaning in TRAITS.items())


def _notes(implementation: str, grade: GradeResult) -> Iterable[str]:
    """Yield why there is no grade. For a quantity in no class, yield the failure of the widest class."""
    where = f"{implementation}, {grade.dtype} on {grade.device}"
    if grade.reason:
        yield f"\nnot graded: {where}: {grade.reason}"
    for quantity, ledger in grade.ledgers().items():
        if ledger and ledger.strictest is None:
            widest = ledger.classes[-1]
            yield f"\nnone: the {quantity} of {where} is in no class; even the widest fell:"
            yield from (f"  {line}" for line in (widest.finding or "").splitlines())
            yield "on the case"
            yield from (
                f"  {line}" for line in ("from dmat.strategies import *", *(widest.case or "").splitlines())
            )

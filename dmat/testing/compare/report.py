"""The report of `dmat compare`: the verdict first, then a table, then why NEW is worse."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dmat.testing.compare.result import Compared, Comparison, Measured, Quantity, Side
from dmat.testing.output import plain

SAID = {
    "not worse": "NOT WORSE: all of NEW is within its contract, and nothing is worse than OLD",
    "worse": "WORSE: NEW is over its own bound, or worse than OLD",
    "error": "NOT ALL COULD BE COMPARED: what could is not worse",
}
LEGEND = (
    "difference: same bits, or the largest in units of the last place, and from which length on",
    "OLD, NEW: the largest error over the bound of its own contract",
    "nearer: how many of the judged entries are nearer the truth in OLD alone, and in NEW alone",
)


def show(comparison: Comparison, console: Console) -> None:
    """Print the verdict, both kernels, the table, its legend, and why NEW is worse."""
    plain(console, SAID[comparison.verdict])
    for name, side in (("OLD", comparison.old), ("NEW", comparison.new)):
        plain(console, f"{name}  {_side(side)}")
    plain(console, "")
    console.print(_table(comparison.sites))
    for line in ("", *LEGEND):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    for site in comparison.sites:
        for line in _notes(site):
            plain(console, line)


def _side(side: Side) -> str:
    return f"{side.implementation}   torch {side.versions['torch']}, {side.python}"


def _table(sites: Iterable[Compared]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("dtype", "result", "difference", "OLD", "NEW", "nearer"):
        table.add_column(name, no_wrap=True)
    for site in sites:
        for number, one in enumerate(site.quantities):
            where = f"{site.dtype}" + ("" if site.device == "cpu" else f" {site.device}")
            red = "bold red" if one.worse else ""
            ratios = _ratio(one.old), Text(_ratio(one.new), style=red)
            table.add_row("" if number else where, one.quantity, _difference(one), *ratios, _nearer(one))
    return table


def _difference(one: Quantity) -> str:
    if one.same_bits:
        return "same bits"
    said = "no number" if one.ulps is None else f"{one.ulps:,.0f} ulp" + ("" if one.ulps == 1 else "s")
    return f"{said}, S >= {one.from_length}"


def _ratio(side: Measured) -> str:
    most = "-" if side.worst is None else f"{side.worst:.2f}" if side.worst < 1e3 else f"{side.worst:.0e}"
    return f"{most} over" if side.over else most


def _nearer(one: Quantity) -> str:
    if not one.entries or one.old.nearer == one.new.nearer == 0:
        return "-"
    parts = (100 * side.nearer / one.entries for side in (one.old, one.new))
    return "OLD {:.0f}%, NEW {:.0f}%".format(*parts)


def _notes(site: Compared) -> Iterable[str]:
    """Yield why a dtype was not compared, and for each result that is worse the reason and a case."""
    where = f"{site.dtype} on {site.device}"
    if site.reason:
        yield f"\nnot compared: {where}: {site.reason}"
    if site.worse:
        yield f"\n{where}: {site.worse}"
    if site.left_out:
        yield f"{where}: {site.left_out} cases of NEW are none of OLD's, by their contracts"
    worse = [one for one in site.quantities if one.worse]
    if worse:
        yield f"\n{where}:"
    yield from (f"  {one.quantity}: {one.worse}" for one in worse)
    if (case := next((one.case for one in worse if one.case is not None), None)) is not None:
        yield "  on the case"
        yield from (f"    {line}" for line in ("from dmat.strategies import *", *case.splitlines()))

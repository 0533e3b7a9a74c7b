"""The matrix of a report: each law in each dtype, for `--verbose`."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from dmat.testing.record import LawRecord, Report, Unreached


def matrix(report: Report) -> Table:
    """Return the table: one row per law, one column per dtype and device.

    A number in a cell is the worst error divided by its bound.
    """
    sites = list(dict.fromkeys((r.dtype, r.device) for r in report.laws))
    many = len({device for _, device in sites}) > 1
    table = Table(title=Text(report.implementation), title_justify="left", box=None, pad_edge=False)
    table.add_column("law", no_wrap=True)
    for dtype, device in sites:
        table.add_column(f"{dtype} {device}" if many else dtype, justify="right", no_wrap=True)
    cells = {(r.law, r.dtype, r.device): r for r in report.laws}
    for law in dict.fromkeys(r.law for r in report.laws if not isinstance(r, Unreached)):
        table.add_row(law, *(_cell(cells[law, *site]) for site in sites))
    return table


def _cell(record: LawRecord) -> Text:
    if record.status == "passed":
        return Text("ok" if record.worst is None else f"ok {record.worst:.2f}", style="green")
    if record.status == "failed":
        return Text("FAILED", style="bold red")
    if record.status == "known":
        return Text("known", style="yellow")
    return Text("" if isinstance(record, Unreached) else "not run", style="dim")

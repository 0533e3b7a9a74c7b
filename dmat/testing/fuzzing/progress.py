"""The progress display of a run: a live table on a terminal, else one line every 30 seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dmat.testing.fuzzing.tally import Finding, Sum

EVERY = 30.0  # seconds between two lines without a terminal
MARGIN = 8  # rows of the terminal that are not for laws


class Progress:
    """Shows the progress of a run on stderr. stdout is for the verdict.

    total: the sums to show. seconds: time budget of the run.
    """

    def __init__(self, total: Sum, seconds: float) -> None:
        """Prepare the display without showing anything."""
        self.total, self.seconds = total, seconds
        self.began, self.before = time.monotonic(), total.examples
        rich = sys.stderr.isatty()
        self.console = Console(stderr=True, emoji=False, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if rich else None
        self.shown, self.shown_findings = 0.0, 0

    def __enter__(self) -> Progress:
        """Start the live display on a terminal."""
        if self.live is not None:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live display and print the remaining findings."""
        if self.live is not None:
            self.live.__exit__(kind, error, trace)
        self._show_findings()

    def show(self) -> None:
        """Refresh the display: at most once a second on a terminal, else print new findings and a line."""
        now = time.monotonic()
        if self.live is not None:
            if now - self.shown > 1.0:
                self.shown = now
                self.live.update(self._screen(), refresh=True)
            return
        self._show_findings()
        if now - self.shown > EVERY:
            self.shown = now
            self.console.print(self._line())

    def _show_findings(self) -> None:
        for finding in self.total.findings[self.shown_findings :]:
            self.console.print(found_line(finding), soft_wrap=True, markup=False)
        self.shown_findings = len(self.total.findings)

    @property
    def rate(self) -> float:
        """Examples per second in this sitting."""
        return (self.total.examples - self.before) / max(time.monotonic() - self.began, 1e-9)

    def _line(self) -> str:
        left = max(0.0, self.seconds - self.total.elapsed)
        tried = sum(bool(tally.examples) for tally in self.total.tallies.values())
        return (
            f"{_clock(left)} left, {self.total.examples:,} examples, {self.rate:.0f} a second,"
            f" {tried} of {len(self.total.tallies)} cells tried, found {len(self.total.findings)}"
        )

    def _screen(self) -> RenderableType:
        findings = [Text(found_line(finding), style="red") for finding in self.total.findings[-5:]]
        rows = max(5, self.console.height - MARGIN - len(findings))
        return Group(Text(self._line(), style="bold"), self._laws(rows), *findings)

    def _laws(self, rows: int) -> Table:
        """Return the table of laws: broken laws first, then by the largest error over bound."""
        table = Table(box=None, pad_edge=False)
        for name in ("law", "examples", "worst error / bound", "cells broken"):
            table.add_column(name, justify="left" if name == "law" else "right")
        sums: dict[str, list[float]] = {}
        for cell, tally in self.total.tallies.items():
            examples, worst, broken = sums.setdefault(cell.law, [0.0, -1.0, 0.0])
            worst = max(worst, -1.0 if tally.worst is None else tally.worst)
            sums[cell.law] = [examples + tally.examples, worst, broken + bool(tally.symptoms)]
        ranked = sorted(sums.items(), key=lambda item: (-item[1][2], -item[1][1]))
        for law, (examples, worst, broken) in ranked[:rows]:
            style = "red" if broken else ""
            shown = f"{worst:.3f}" if worst >= 0 else ""
            table.add_row(law, f"{examples:,.0f}", shown, f"{broken:.0f}" if broken else "", style=style)
        return table


def found_line(finding: Finding) -> str:
    """Return a finding as one line."""
    cell, after = finding.found.cell, _clock(finding.after)
    also = f", and {len(finding.also)} more cells" if finding.also else ""
    return f"found after {after}: {cell.law} of {cell.implementation}, {cell.dtype} on {cell.device}{also}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

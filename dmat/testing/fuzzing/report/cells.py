"""Compress the cells of a fuzzing report for the HTML page: one row per cell, and each text only once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import to_builtins

from dmat.strategies.regimes import NAMES
from dmat.strategies.shapes import LENGTHS
from dmat.testing.fuzzing.report.covering import covering, key
from dmat.testing.fuzzing.report.entries import CellEntry, FuzzReport
from dmat.testing.text import short

TEXTS = ("law", "implementation", "dtype", "device", "status", "reason", "worst_case", "worst_recipe")
NUMBERS = ("turns", "examples", "refused", "out_of_memory", "seconds", "worst")
REASON = 300  # characters of a cell's reason
CASES = 2_000_000  # characters of all worst cases and their recipes together


@dataclass
class Texts:
    """A list of distinct texts."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str | None) -> int | None:
        """Return the index of the text in the list. A new text is appended. None for None."""
        return None if text is None else self.places.setdefault(text, len(self.places))


def packed(report: FuzzReport) -> dict[str, Any]:
    """Return the data that report.js unpacks. Its "fields" names the fields of a row.

    In a row, text fields come first, then numbers, then `drawn`. `drawn` is flat: index of the text
    "REGIME, LENGTHS", number of examples, and so on. `finding` is the number, from 1, of the finding that
    covers the cell.
    """
    texts, by_cell, openable = Texts(), covering(report), _openable(report.cells)
    rows = []
    for n, cell in enumerate(report.cells):
        shown = {name: texts.place(text) for name, text in _texts(cell, case=n in openable).items()}
        drawn = [x for name, count in cell.drawn.items() for x in (texts.place(name), count)]
        number = by_cell.get(key(cell.implementation, cell))
        finding = None if number is None else number + 1
        rows.append([*shown.values(), *(getattr(cell, name) for name in NUMBERS), finding, drawn])
    return {
        "texts": list(texts.places),
        "text_fields": TEXTS,
        "fields": [*TEXTS, *NUMBERS, "finding", "drawn"],
        "rows": rows,
        "regimes": NAMES,
        "lengths": LENGTHS,
        "laws": to_builtins(report.laws),
        "contracts": {i.name: i.contract for i in report.implementations},
    }


def _texts(cell: CellEntry, *, case: bool) -> dict[str, str | None]:
    """Return the texts of a cell. A long reason is cut. case: whether the worst case is included."""
    shown = {name: getattr(cell, name) for name in TEXTS}
    shown["reason"] = short(next(iter(cell.reason.splitlines()), ""), REASON)
    return shown if case else shown | {"worst_case": None, "worst_recipe": None}


def _openable(cells: list[CellEntry]) -> set[int]:
    """Return the indices of the cells whose worst case fits into CASES characters.

    The worst cell of each law comes first, then the other cells by error over bound.
    """
    bounded = [n for n, cell in enumerate(cells) if cell.worst is not None]
    ranked = sorted(bounded, key=lambda n: float(-(cells[n].worst or 0.0)))
    first = list({cells[n].law: n for n in reversed(ranked)}.values())
    room, chosen = CASES, set()
    for n in dict.fromkeys([*first, *ranked]):
        room -= len(cells[n].worst_case or "") + len(cells[n].worst_recipe or "")
        if room >= 0:
            chosen.add(n)
    return chosen

"""The cells of a fuzzing report, small enough to stand in a page: each text once, each cell a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import to_builtins

from dmat.strategies.regimes import NAMES
from dmat.strategies.shapes import LENGTHS
from dmat.testing.fuzzing.report.covering import covering, key
from dmat.testing.fuzzing.report.entries import CellEntry, FuzzReport
from dmat.testing.fuzzing.report.text import short

TEXTS = ("law", "implementation", "dtype", "device", "status", "reason", "worst_case", "worst_recipe")
NUMBERS = ("turns", "examples", "refused", "out_of_memory", "seconds", "worst")
REASON = 300  # characters
CASES = 2_000_000  # characters of worst cases and their recipes, all together


@dataclass
class Texts:
    """A list of texts in which each stands once."""

    places: dict[str, int] = field(default_factory=dict)

    def place(self, text: str | None) -> int | None:
        """Return where the text stands in the list, at its end if it is new; None for None."""
        return None if text is None else self.places.setdefault(text, len(self.places))


def packed(report: FuzzReport) -> dict[str, Any]:
    """Return what report.js unpacks. fields: of a row; after those of `texts` come numbers, then `drawn`.

    A row's drawn is flat: the place of "REGIME, LENGTHS" among the texts, the examples, and so on. finding
    is the number of the finding that stands for the cell, from 1.
    """
    texts, by_cell, openable = Texts(), covering(report), _openable(report.cells)
    rows = []
    for n, cell in enumerate(report.cells):
        told = {name: texts.place(text) for name, text in _texts(cell, case=n in openable).items()}
        drawn = [x for name, count in cell.drawn.items() for x in (texts.place(name), count)]
        number = by_cell.get(key(cell.implementation, cell))
        finding = None if number is None else number + 1
        rows.append([*told.values(), *(getattr(cell, name) for name in NUMBERS), finding, drawn])
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
    """Return the texts of a cell: of a long reason its beginning, and its case if there is room."""
    told = {name: getattr(cell, name) for name in TEXTS}
    told["reason"] = short(next(iter(cell.reason.splitlines()), ""), REASON)
    return told if case else told | {"worst_case": None, "worst_recipe": None}


def _openable(cells: list[CellEntry]) -> set[int]:
    """Return which cells bring their case, while there is room: of each law the worst, then by ratio."""
    bounded = [n for n, cell in enumerate(cells) if cell.worst is not None]
    ranked = sorted(bounded, key=lambda n: float(-(cells[n].worst or 0.0)))
    first = list({cells[n].law: n for n in reversed(ranked)}.values())
    room, chosen = CASES, set()
    for n in dict.fromkeys([*first, *ranked]):
        room -= len(cells[n].worst_case or "") + len(cells[n].worst_recipe or "")
        if room >= 0:
            chosen.add(n)
    return chosen

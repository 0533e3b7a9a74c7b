"""Draw the picture of a finding: exact, computed, and error / allowed, side by side.

`figure` builds a row of panels for each Example, and `draw` saves the figure. A head of D~ is a matrix with
rows t downwards, igate along its upper edge and fgate along its left edge. A head of a gradient is a band.
The cotangent G stands beside the bands, with a frame around the part that the named entry sums. Beside the
panels of a delta rule stands T = (I + A)^-1, with a frame around the row of the named entry. A frame marks
the named entry, and a bar along the edge marks its window, the gates s+1 .. t. The mask, -inf above the
diagonal, is hatched. The code needs no display and changes no global state of matplotlib.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from dmat.testing.explain.pattern import failing_entries
from dmat.testing.explain.picture import colours
from dmat.testing.explain.picture.beside import cotangent_of, cotangent_panel, inverse_panel
from dmat.testing.explain.picture.colours import Rgba, Scale
from dmat.testing.explain.picture.inverse import Inverse, inverse_of
from dmat.testing.explain.picture.marks import (
    HATCH,
    INK,
    PAPER,
    boxes,
    diagonal,
    frame,
    hatch,
    numbered,
    numbers,
)
from dmat.testing.explain.picture.tiles import Tiles
from dmat.testing.explain.picture.view import View, gates_of, view_of
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import Example

WIDTH, DPI = 15.6, 100  # inches, pixels an inch
LEFT, PANEL, APART, HIGHEST = (
    0.85,
    4.3,
    0.6,
    5.4,
)  # inches: left margin, width of a panel, gap, largest height
HEADER, TITLE, BARS, LEGEND, WORDS = 0.95, 0.3, 0.95, 0.5, 3.6  # inches: heights


# One panel


def _mark(axes: Axes, tiles: Tiles, view: View) -> None:
    """Frame the finding's entry. In D~, also mark its row, its column and its window."""
    if view.entry is None:
        return
    t, s = view.entry
    x, y = tiles.at(view.worst, t, s)
    if view.times:
        left, top = tiles.at(view.worst, -1.6 * tiles.strip, -1.6 * tiles.strip)
        halo = [withStroke(linewidth=3, foreground=PAPER)]
        style: dict[str, Any] = {"color": INK, "lw": 1.0, "ls": ":", "path_effects": halo}
        if not tiles.printed:
            axes.plot([left, x], [y + 0.5, y + 0.5], gid="row", **style)
            axes.plot([x + 0.5, x + 0.5], [top, y], gid="column", **style)
        ends = [tiles.at(view.worst, n, s)[1] for n in (s + 1, t + 1)]
        if s < t:
            edge = left - tiles.gap / 4
            axes.plot([edge, edge], ends, color=INK, lw=4, solid_capstyle="butt", gid="window")
    wider, higher = tiles.margin
    frame(axes, (x - wider, y - higher, 1 + 2 * wider, 1 + 2 * higher), "worst")


def _tick(axes: Axes, tiles: Tiles, view: View) -> None:
    """Label columns along the lower edge and rows along the left edge, and name the tiles."""
    row, column = view.entry or (None, None)
    rows, columns = numbered(tiles.shape[0], row), numbered(tiles.shape[1], column)
    last_row = range((tiles.count - 1) // tiles.columns * tiles.columns, tiles.count)
    across = [(tiles.at(n, 0, s + 0.5)[0], str(s)) for n in last_row for s in columns]
    down = [(tiles.at(n, 0.5, 0)[1], name) for n, name in enumerate(view.names)]
    if view.matrix:
        first_column = range(0, tiles.count, tiles.columns)
        down = [(tiles.at(n, t + 0.5, 0)[1], str(t)) for n in first_column for t in rows]
        for n, name in enumerate(view.names if tiles.count > 1 else []):
            axes.text(*tiles.at(n, -1.8 * tiles.strip, 0), name, fontsize=8, va="bottom", color="#333333")
    axes.set_xticks(*zip(*across, strict=True), fontsize=8)
    axes.set_yticks(*zip(*down, strict=True), fontsize=8)
    axes.tick_params(length=2, pad=2)


def _panel(axes: Axes, tiles: Tiles, view: View, values: Array, image: Rgba, gates: Scale) -> None:
    """Draw one of the three panels: the image of the entries, the gates beside it, the marks on it."""
    strips = None if view.gates is None else (gates.paint(view.gates[0]), gates.paint(view.gates[1]))
    axes.pcolorfast(*tiles.compose(image, strips))
    outlines = [box for tile in range(tiles.count) for box in tiles.boxes(tile)]
    boxes(axes, outlines, edgecolor="#bbbbbb", lw=0.6)  # white is a value here, not paper
    if view.causal is not None:
        for tile in range(tiles.count):
            diagonal(axes, tiles, tile)
    if tiles.printed:
        numbers(axes, tiles, values, image)
    _mark(axes, tiles, view)
    _tick(axes, tiles, view)
    axes.set(xlim=(0, tiles.size[0]), ylim=(tiles.size[1], 0), aspect="equal" if view.matrix else "auto")
    axes.set_anchor("NW")
    axes.spines[:].set_visible(False)


def _values_panel(
    axes: Axes, tiles: Tiles, view: View, name: str, values: Array, scale: Scale, gates: Scale
) -> None:
    """Draw the panel of exact or of computed values, with the mask above the diagonal hatched.

    An exact value is known only for a judged entry. The other entries are dotted.
    """
    image = scale.paint(values)
    unknown = ~view.judged & (name == "exact")
    future = view.times if view.causal is None else ~view.causal
    masked = (values == -np.inf) & future & ~unknown
    image[masked] = to_rgba(colours.MASKED)
    image[unknown] = to_rgba(colours.UNJUDGED)
    _panel(axes, tiles, view, np.ma.array(values, mask=unknown), image, gates)
    hatch(axes, tiles, unknown, "...", f"unjudged of {name}")
    hatch(axes, tiles, masked, "////", f"mask of {name}")
    axes.set_title(f"{name} {view.example.finding.quantity}", fontsize=11)


def _ratio_panel(axes: Axes, tiles: Tiles, view: View, gates: Scale) -> None:
    """Draw the panel of error / allowed. Entries that were not judged are dotted."""
    image = colours.paint_ratios(view.ratio, view.judged)
    _panel(axes, tiles, view, np.ma.array(view.ratio, mask=~view.judged), image, gates)
    hatch(axes, tiles, ~view.judged, "...", "unjudged")
    axes.set_title("error / allowed", fontsize=11)


# One Example


def _box(height: float, left: float, top: float, width: float, down: float) -> dict[str, float]:
    """Convert a box, in inches from a row's upper left corner, to matplotlib's fractions of the row."""
    across = {"left": left / WIDTH, "right": (left + width) / WIDTH}
    return {**across, "top": 1 - top / height, "bottom": 1 - (top + down) / height}


def _write(row: SubFigure, height: float, top: float, text: str, **style: Any) -> None:
    """Write text `top` inches below the upper edge of a row. A dollar sign is not parsed as mathematics."""
    row.text(0.3 / WIDTH, 1 - top / height, text, va="top", parse_math=False, **style)


def _shape(example: Example) -> str:
    gates = example.case.get("gates")
    if gates is None:
        return ""
    B, NH, S = gates.shape
    return f"{gates.dtype}, B={B}, NH={NH}, S={S}"


def _header(row: SubFigure, height: float, example: Example) -> None:
    """Write the finding, the shape of its case, and the failing entries."""
    first, *rest = example.finding.lines()
    title = textwrap.shorten(f"{first}  |  {_shape(example)}", 120)
    _write(row, height, 0.15, title, fontsize=13, weight="bold")
    found = textwrap.shorten("  |  ".join(line.strip() for line in rest), 190, placeholder=" ...")
    _write(row, height, 0.42, found, fontsize=10)
    failing = failing_entries(example.finding)
    if failing:
        _write(row, height, 0.64, textwrap.shorten(f"wrong: {failing}", 190), fontsize=10)


def _text(row: SubFigure, height: float, example: Example) -> None:
    """Draw a finding without entries as text, with the gates beside it if the case has any."""
    lines = [part for line in example.finding.lines() for part in textwrap.wrap(line, 78) or [""]]
    _write(row, height, 0.25, _shape(example), fontsize=11)
    _write(row, height, 0.6, "\n".join(lines[:13]), fontsize=11, family="monospace")
    gates = gates_of(example)
    if gates is None or 0 in gates[0].shape:
        return
    scale = Scale.of(np.stack(gates), colours=colours.GATES)
    panels = row.subplots(2, gridspec_kw={**_box(height, 8.6, 0.5, 6.6, 2.3), "hspace": 0.42})
    for axes, name, gate in zip(panels, ("igate", "fgate"), gates, strict=True):
        axes.imshow(scale.paint(gate), aspect="auto", interpolation="nearest", gid=name)
        axes.set_title(f"{name}, a row a head", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.locator_params(integer=True)
    scale.bar(row.subplots(gridspec_kw=_box(height, 8.6, 3.15, 6.6, 0.14)), "gates")


class Panels:
    """A row of the picture: three panels of matrices side by side, or three of bands one above another."""

    def __init__(self, view: View, inverse: Inverse | None) -> None:
        """Measure the panels."""
        self.view, self.tiles, self.inverse = view, Tiles.of(view), inverse
        self.cotangent = None if inverse else cotangent_of(view)
        width, height = self.tiles.size
        beside = 0.0 if self.cotangent is None and inverse is None else PANEL + 1.0
        if view.matrix:
            across = WIDTH - LEFT - 0.65 - beside
            panel = (across - 2 * APART) / 3
            self.shape, self.size = (1, 3), (across, min(HIGHEST, panel * height / width))
            self.apart = {"wspace": APART / panel}
        else:
            each, apart = max(0.95, 0.27 * self.tiles.count), TITLE + 0.25
            self.shape, self.size = (3, 1), (WIDTH - LEFT - 0.4 - beside, 3 * each + 2 * apart)
            self.apart = {"hspace": apart / each}
        self.height = HEADER + TITLE + max(self.size[1] + 0.05, PANEL * (beside > 0)) + BARS

    def draw(self, row: SubFigure) -> None:
        """Draw the panels, the cotangent beside them, and the colour bars below them."""
        view, tiles, height, top = self.view, self.tiles, self.height, HEADER + TITLE
        values, gates = _scales(view)
        _header(row, height, view.example)
        place = _box(height, LEFT, top, *self.size)
        exact, computed, ratio = row.subplots(*self.shape, gridspec_kw=place | self.apart)
        _values_panel(exact, tiles, view, "exact", view.exact, values, gates)
        _values_panel(computed, tiles, view, "computed", view.computed, values, gates)
        _ratio_panel(ratio, tiles, view, gates)
        _label(exact if view.matrix else ratio, view)
        square = _box(height, WIDTH - PANEL - 0.3, top, PANEL, PANEL)
        if self.inverse is not None:
            inverse_panel(row.subplots(gridspec_kw=square), self.inverse)
        elif self.cotangent is not None:
            cotangent_panel(row.subplots(gridspec_kw=square), view, self.cotangent)
        place = _box(height, LEFT, height - BARS + 0.5, 3 * PANEL + 2 * APART, 0.14)
        bars = row.subplots(1, 3, gridspec_kw={**place, "wspace": APART / PANEL})
        values.bar(bars[0], view.example.finding.quantity)
        if view.gates is None:
            bars[1].remove()
        else:
            gates.bar(bars[1], "gates")
        colours.ratio_bar(bars[2], INK)


def _label(axes: Axes, view: View) -> None:
    """Name the axes of a panel and the position of the gates."""
    *row, column = view.axes
    gates = view.gates is not None
    if view.matrix:
        axes.set_xlabel(f"column {column}" + "  (upper edge: igate[s])" * gates, fontsize=9)
        axes.set_ylabel(f"row {row[0]}" + "  (left edge: fgate[t])" * gates, fontsize=9)
    else:
        axes.set_xlabel(column + "  (thin rows above: fgate, igate)" * gates, fontsize=9)


def _scales(view: View) -> tuple[Scale, Scale]:
    """Return the common scale of exact and computed values, and the scale of the gates."""
    gates = Scale.of(*([] if view.gates is None else [np.stack(view.gates)]), colours=colours.GATES)
    inside = np.ones(view.exact.shape[1:], dtype=bool) if view.causal is None else view.causal
    return Scale.of(view.exact[view.judged & inside], view.computed[:, inside]), gates


# The figure


def _legend(row: SubFigure) -> None:
    """Draw the legend: the colours that mean no number, the hatches, the frame and the window."""
    handles: list[Any] = [Patch(facecolor=colour, label=text) for text, colour in colours.LEGEND.items()]
    for text, pattern, colour in (
        ("masked, -inf", "////", colours.MASKED),
        ("not judged", "...", colours.UNJUDGED),
    ):
        handles.append(Patch(facecolor=colour, edgecolor=HATCH, hatch=pattern, label=text))
    handles.append(Patch(facecolor=PAPER, edgecolor=INK, lw=2, label="the entry named"))
    handles.append(Line2D([], [], color=INK, lw=4, label="its window, gates s+1 .. t"))
    row.legend(handles=handles, loc="center", ncol=len(handles), fontsize=8, frameon=False)


def figure(examples: Sequence[Example], subject: Subject | None = None) -> Figure:
    """Build the figure: a row for each Example, in order, then the legend.

    subject: the implementation that was called; None if it is unknown, and then T is not drawn.
    """
    views = [(example, view_of(example)) for example in examples]
    panels = [None if view is None else Panels(view, inverse_of(one, subject)) for one, view in views]
    heights = [*(WORDS if row is None else row.height for row in panels), LEGEND]
    drawn = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, facecolor=PAPER)
    *rows, last = drawn.subfigures(len(heights), squeeze=False, hspace=0, height_ratios=heights)[:, 0]
    for example, row, part in zip(examples, rows, panels, strict=True):
        if part is None:
            _text(row, WORDS, example)
        else:
            part.draw(row)
    _legend(last)
    return drawn


def draw(examples: Sequence[Example], file: Path, subject: Subject | None = None) -> None:
    """Draw the Examples, the smallest case first, into a PNG file. subject: as in `figure`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph missing in the font must not cost the picture
        figure(examples, subject).savefig(file, format="png", dpi=DPI)

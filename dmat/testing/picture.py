"""A picture of a failure: exact, computed, and the error over what is allowed, side by side.

`draw` saves what `figure` builds, a row of panels for each look. D~ is drawn head by head as the matrix that
it is, rows t downwards, with igate along its upper edge and fgate along its left; a gradient as one band a
head, beside the cotangent G whose column or rectangle it sums. The entry that the finding names is framed,
and its window, the gates s+1 .. t, marked along the edge. The part above the diagonal is hatched where the
mask, -inf, stands. No display is needed, and nothing of matplotlib's global state is touched.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmat.testing import colours
from dmat.testing.colours import Rgb, Scale
from dmat.testing.exact import Array, Mask
from dmat.testing.look import Look
from dmat.testing.pattern import failing_entries
from dmat.testing.sheet import Sheet
from dmat.testing.view import View, gates_of, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 15.6, 100  # inches, pixels an inch
PANEL, LEFT, APART = 4.3, 0.85, 0.6  # inches: a panel's width, and what is left beside it
INK, PAPER = "#111111", "#ffffff"


# One panel


def _hatch(axes: Axes, sheet: Sheet, where: Mask, pattern: str, name: str) -> None:
    """Hatch the entries told, all of them as one artist of this name."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    boxes = list(sheet.cells(where))
    if not boxes:
        return
    corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)] for x, y, w, h in boxes]
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    outline = Outline(np.array(corners).reshape(-1, 2), np.tile(np.array(codes), len(boxes)))
    axes.add_patch(PathPatch(outline, fill=False, hatch=pattern, edgecolor="#a8a8a8", lw=0, gid=name))


def _line(axes: Axes, xs: Sequence[float], ys: Sequence[float], name: str, width: float, dash: str) -> None:
    """Draw a dark line on a light one, so that it is seen on any colour."""
    axes.plot(xs, ys, color=PAPER, lw=width + 2, solid_capstyle="butt")
    axes.plot(xs, ys, color=INK, lw=width, ls=dash, gid=name, solid_capstyle="butt")


def _frame(axes: Axes, corner: tuple[float, float], width: float, height: float, name: str) -> None:
    from matplotlib.patches import Rectangle

    for colour, thick in ((PAPER, 4.0), (INK, 2.0)):
        gid = name if colour == INK else None
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, lw=thick, gid=gid))


def _mark(axes: Axes, sheet: Sheet, view: View) -> None:
    """Frame the entry that the finding names; of a matrix show its row, its column and its window."""
    if view.entry is None:
        return
    t, s = view.entry
    x, y = sheet.at(view.worst, t, s)
    across, down = sheet.cell
    if view.matrix:
        left, top = sheet.corner(view.worst)
        edge_x, edge_y = left - 3 - sheet.strip, top - 3 - sheet.strip
        if not sheet.printed:
            _line(axes, [edge_x, x], [y + down / 2] * 2, "row", 1.0, ":")
            _line(axes, [x + across / 2] * 2, [edge_y, y], "column", 1.0, ":")
        if s < t:
            ys = [sheet.at(view.worst, n, s)[1] for n in (s + 1, t + 1)]
            _line(axes, [edge_x - 1] * 2, ys, "window", 4.0, "-")
    wider = max(0.0, (sheet.seen - across) / 2)
    higher = 1.0 if sheet.band else wider
    _frame(axes, (x - wider, y - higher), across + 2 * wider, down + 2 * higher, "worst")


def _outline(axes: Axes, sheet: Sheet, tile: int, gates: bool) -> None:
    """Draw a thin line around a tile and its strips of gates, so that white is seen to be a value."""
    from matplotlib.patches import Rectangle

    x, y = sheet.corner(tile)
    width, height = sheet.cell[0] * sheet.shape[1], sheet.cell[1] * sheet.shape[0]
    boxes = [(x, y, width, height)]
    if gates:
        boxes.append((x, y - 2 - sheet.strip, width, sheet.strip))
        above = (x, y - 2 - 2 * sheet.strip, width, sheet.strip)
        boxes.append(above if sheet.band else (x - 2 - sheet.strip, y, sheet.strip, height))
    for left, top, across, down in boxes:
        axes.add_patch(Rectangle((left, top), across, down, fill=False, edgecolor="#bbbbbb", lw=0.6))


def _diagonal(axes: Axes, sheet: Sheet, tile: int) -> None:
    """Draw the stairs between what is causal and what is not."""
    n = np.arange(min(sheet.shape)).repeat(2)
    s, t = np.append(n + np.tile([0, 1], len(n) // 2), n[-1] + 1), np.append(n, n[-1] + 1)
    x, y = sheet.corner(tile)
    axes.plot(x + sheet.cell[0] * s, y + sheet.cell[1] * t, color="#444444", lw=0.7)


def _numbers(axes: Axes, sheet: Sheet, values: Array, image: Rgb) -> None:
    """Write each value into its cell, dark on light and light on dark."""
    for tile, t, s in np.argwhere(~np.ma.getmaskarray(values)):
        x, y = sheet.at(tile, t + 0.5, s + 0.5)
        colour = INK if image[tile, t, s] @ np.array([0.3, 0.59, 0.11]) > 0.45 else PAPER
        text = f"{values[tile, t, s]:.4g}"
        axes.text(x, y, text, color=colour, fontsize=8, ha="center", va="center", gid="number")


def _spread(size: int, also: int | None) -> list[int]:
    """Return few places to be numbered of so many: the ends, the middle or the one asked for."""
    middle = size // 2 if also is None else also
    crowded = [end for end in (0, size - 1) if 0 < abs(end - middle) < size / 8]
    return sorted({0, middle, size - 1} - set(crowded))


def _tick(axes: Axes, sheet: Sheet, view: View, labelled: bool) -> None:
    """Number rows and columns along the left and lower edge of the panel; name the tiles."""
    t, s = view.entry or (None, None)
    across, down = _spread(sheet.shape[1], s), _spread(sheet.shape[0], t)
    last = (sheet.tiles - 1) // sheet.columns * sheet.columns
    in_last_row = range(last, sheet.tiles)
    axes.set_xticks([sheet.at(n, 0, s + 0.5)[0] for n in in_last_row for s in across])
    axes.set_xticklabels([str(s) for _ in in_last_row for s in across], fontsize=8)
    if view.matrix:
        first = range(0, sheet.tiles, sheet.columns)
        axes.set_yticks([sheet.at(n, t + 0.5, 0)[1] for n in first for t in down])
        axes.set_yticklabels([str(t) for _ in first for t in down], fontsize=8)
    else:
        axes.set_yticks([sheet.at(n, 0.5, 0)[1] for n in range(sheet.tiles)])
        axes.set_yticklabels(view.names, fontsize=8)
    axes.tick_params(length=2, pad=2)
    if view.matrix and sheet.tiles > 1:
        for n, name in enumerate(view.names):
            x, y = sheet.corner(n)
            above = y - sheet.strip - 4 if view.gates else y - 2
            axes.text(x, above, name, fontsize=8, va="bottom", ha="left", color="#333333")
    if labelled and view.matrix:
        axes.set_xlabel("column s  (upper edge: igate[s])", fontsize=9)
        axes.set_ylabel("row t  (left edge: fgate[t])", fontsize=9)


def _panel(
    axes: Axes, sheet: Sheet, view: View, values: Array, image: Rgb, gates: Scale, first: bool
) -> None:
    """Draw one of the three: the entries' image, the gates beside it, the marks on it."""
    edges = None
    if view.gates is not None:
        igate, fgate = (colours.paint(gate, gates, colours.GATES) for gate in view.gates)
        edges = igate, fgate
    width, height = sheet.size
    whole = sheet.compose(image, edges)
    axes.imshow(whole, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for side in axes.spines.values():
        side.set_visible(False)
    for tile in range(sheet.tiles):
        _outline(axes, sheet, tile, edges is not None)
        if view.causal is not None:
            _diagonal(axes, sheet, tile)
    if sheet.printed:
        _numbers(axes, sheet, values, image)
    _mark(axes, sheet, view)
    _tick(axes, sheet, view, first)


def _values_panel(
    axes: Axes, sheet: Sheet, view: View, name: str, values: Array, scale: Scale, gates: Scale
) -> None:
    """Draw exact or computed; what is the mask and stands above the diagonal is hatched.

    What is exact is known only where something was required.
    """
    image = colours.paint(values, scale)
    unknown = ~view.judged & (name == "exact")
    future = view.matrix if view.causal is None else ~view.causal
    hatched = (values == -np.inf) & future & ~unknown
    image[hatched] = colours.rgb(colours.MASKED)
    image[unknown] = colours.rgb(colours.UNJUDGED)
    _panel(axes, sheet, view, np.ma.array(values, mask=unknown), image, gates, name == "exact")
    _hatch(axes, sheet, unknown, "...", f"unjudged of {name}")
    _hatch(axes, sheet, hatched, "////", f"mask of {name}")
    axes.set_title(f"{name} {view.look.finding.quantity}", fontsize=11)


def _ratio_panel(axes: Axes, sheet: Sheet, view: View, gates: Scale) -> None:
    """Draw the error over what is allowed; what nothing was required of is dotted."""
    image = colours.paint_ratios(view.ratio, view.judged)
    ratio = np.ma.array(view.ratio, mask=~view.judged)
    _panel(axes, sheet, view, ratio, image, gates, False)
    _hatch(axes, sheet, ~view.judged, "...", "unjudged")
    axes.set_title("error / allowed", fontsize=11)


# The scales below the panels


def _bar(axes: Axes, image: Rgb, places: Sequence[float], labels: Sequence[str], name: str) -> None:
    axes.imshow(image[None], extent=(0, 1, 0, 1), aspect="auto")
    axes.set_yticks([])
    axes.set_xticks(list(places))
    axes.set_xticklabels(list(labels), fontsize=8)
    axes.tick_params(length=2, pad=2)
    axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")


def _signed_bar(axes: Axes, scale: Scale, ramp: tuple[str, ...], name: str) -> None:
    ticks = scale.ticks
    places = [float(scale.place(np.array(tick)) + 1) / 2 for tick in ticks]
    _bar(axes, colours.ramp(np.linspace(0, 1, 256), ramp), places, [f"{tick:.3g}" for tick in ticks], name)


def _ratio_bar(axes: Axes) -> None:
    """Draw the scale of error over allowed, with a line where the error is just what is allowed."""
    low, high = colours.LEAST, colours.MOST
    power = np.linspace(low, high, 256)
    image = colours.paint_ratios(10.0**power, np.ones(256, dtype=bool))
    image[-16:] = colours.rgb(colours.POS_INF)
    ticks = {-3: "0.001", 0: "1 = allowed", 2: "100", 4: "1e4"}
    places = [(tick - low) / (high - low) for tick in ticks]
    _bar(axes, image, [*places, 0.97], [*ticks.values(), "inf"], "")
    axes.axvline(-low / (high - low), color=INK, lw=2, gid="allowed")


# The figure


@dataclass(frozen=True)
class Page:
    """A figure measured in inches from its upper left corner."""

    figure: Figure
    height: float

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes whose upper left corner stands there."""
        box = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(box)

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text whose upper left corner stands there; a dollar sign is no mathematics."""
        self.figure.text(x / WIDTH, 1 - y / self.height, text, va="top", parse_math=False, **style)


def _shape(look: Look) -> str:
    gates = look.case.get("gates")
    if gates is None:
        return ""
    B, NH, S = gates.shape
    return f"{gates.dtype}, B={B}, NH={NH}, S={S}"


def _header(page: Page, y: float, look: Look) -> None:
    """Write what fails, on what, and which entries."""
    first, *rest = look.finding.lines()
    page.text(0.3, y, textwrap.shorten(f"{first}  |  {_shape(look)}", 120), fontsize=13, weight="bold")
    told = textwrap.shorten("  |  ".join(line.strip() for line in rest), 190, placeholder=" ...")
    page.text(0.3, y + 0.27, told, fontsize=10)
    failing = failing_entries(look.finding)
    if failing:
        page.text(0.3, y + 0.49, textwrap.shorten(f"wrong: {failing}", 190), fontsize=10)


HEADER, BARS, TITLE, LEGEND = 0.8, 0.95, 0.3, 0.5  # inches


class Words:
    """A row for a finding without entries: its text, beside the gates if there are some."""

    def __init__(self, look: Look) -> None:
        """Keep the look."""
        self.look = look
        self.gates = gates_of(look)
        self.height = 3.6

    def draw(self, page: Page, y: float) -> None:
        """Draw the row from this height downwards."""
        lines = [part for line in self.look.finding.lines() for part in textwrap.wrap(line, 78) or [""]]
        page.text(0.3, y + 0.1, _shape(self.look), fontsize=11)
        page.text(0.3, y + 0.45, "\n".join(lines[:13]), fontsize=11, family="monospace")
        if self.gates is None or 0 in self.gates[0].shape:
            return
        scale = Scale.of(np.stack(self.gates))
        for n, (name, gate) in enumerate(zip(("igate", "fgate"), self.gates, strict=True)):
            axes = page.axes(8.6, y + 0.4 + 1.35 * n, 6.6, 0.95)
            axes.imshow(
                colours.paint(gate, scale, colours.GATES), aspect="auto", interpolation="nearest", gid=name
            )
            axes.set_title(f"{name}, a row a head", fontsize=9)
            axes.tick_params(labelsize=8)
        _signed_bar(page.axes(8.6, y + 3.05, 6.6, 0.14), scale, colours.GATES, "gates")


class Matrices:
    """A row of three panels of matrices."""

    def __init__(self, view: View) -> None:
        """Measure the panels."""
        self.view, self.sheet = view, Sheet.of(view)
        width, height = self.sheet.size
        self.size = min(PANEL, 5.4 * width / height), min(5.4, PANEL * height / width)
        self.height = HEADER + TITLE + self.size[1] + BARS

    def draw(self, page: Page, y: float) -> None:
        """Draw the row from this height downwards."""
        view, sheet = self.view, self.sheet
        values, gates = _scales(view)
        _header(page, y, view.look)
        top, (width, height) = y + HEADER + TITLE, self.size
        exact, computed, ratio = (page.axes(LEFT + n * (PANEL + APART), top, width, height) for n in range(3))
        _values_panel(exact, sheet, view, "exact", view.exact, values, gates)
        _values_panel(computed, sheet, view, "computed", view.computed, values, gates)
        _ratio_panel(ratio, sheet, view, gates)
        bars = [page.axes(LEFT + n * (PANEL + APART), top + height + 0.5, PANEL, 0.14) for n in range(3)]
        _draw_bars(bars, view, values, gates)


class Bands:
    """A row of three panels of vectors, one above another, and of the cotangent."""

    def __init__(self, view: View) -> None:
        """Measure the panels."""
        self.view, self.sheet = view, Sheet.of(view)
        self.cotangent = _cotangent(view)
        self.each = max(0.95, 0.27 * self.sheet.tiles)
        stacked = 3 * (self.each + TITLE + 0.25)
        self.height = HEADER + max(stacked, PANEL + 0.3 if self.cotangent is not None else 0) + BARS

    def draw(self, page: Page, y: float) -> None:
        """Draw the row from this height downwards."""
        view, sheet = self.view, self.sheet
        values, gates = _scales(view)
        _header(page, y, view.look)
        width = WIDTH - LEFT - 0.4 - (PANEL + 1.0 if self.cotangent is not None else 0)
        tops = [y + HEADER + TITLE + n * (self.each + TITLE + 0.25) for n in range(3)]
        exact, computed, ratio = (page.axes(LEFT, top, width, self.each) for top in tops)
        _values_panel(exact, sheet, view, "exact", view.exact, values, gates)
        _values_panel(computed, sheet, view, "computed", view.computed, values, gates)
        _ratio_panel(ratio, sheet, view, gates)
        ratio.set_xlabel(f"{view.axes[-1]}  (thin rows above: fgate, igate)", fontsize=9)
        below = y + self.height - BARS + 0.4
        bars = [page.axes(LEFT + n * (PANEL + APART), below, PANEL, 0.14) for n in range(3)]
        _draw_bars(bars, view, values, gates)
        if self.cotangent is not None:
            _draw_cotangent(page.axes(WIDTH - PANEL - 0.3, tops[0], PANEL, PANEL), view, self.cotangent)


def _scales(view: View) -> tuple[Scale, Scale]:
    """Return the scale of exact and computed, and that of the gates."""
    gates = Scale.of(np.stack(view.gates)) if view.gates is not None else Scale(1.0, 1.0)
    inside = np.ones(view.exact.shape[1:], dtype=bool) if view.causal is None else view.causal
    return Scale.of(view.exact[view.judged & inside], view.computed[:, inside]), gates


def _draw_bars(bars: Sequence[Axes], view: View, values: Scale, gates: Scale) -> None:
    _signed_bar(bars[0], values, colours.VALUES, view.look.finding.quantity)
    _signed_bar(bars[1], gates, colours.GATES, "gates")
    _ratio_bar(bars[2])


def _cotangent(view: View) -> Array | None:
    """Return G of the finding's head, (S, S), if the case has one and the heads are those of the gates."""
    gates, cotangent = view.look.case.get("gates"), view.look.case.get("cotangent")
    if gates is None or cotangent is None or view.gates is None:
        return None
    G = cotangent.build(gates).double().numpy()
    head: Array = G.reshape(-1, *G.shape[2:])[view.shown[view.worst]]
    return head


def _draw_cotangent(axes: Axes, view: View, G: Array) -> None:
    """Draw G, and frame the part that the worst entry sums: a column, or rows t >= k by columns s < k."""
    scale, S = Scale.of(G), len(G)
    sheet = Sheet(1, 1, (S, S), (1, 1), 0, 0)
    x, y = sheet.corner(0)
    extent = (x, x + S, y + S, y)
    axes.imshow(colours.paint(G, scale), extent=extent, interpolation="nearest")
    _hatch(axes, sheet, ~np.tri(S, dtype=bool)[None], "//", "mask of G")
    _diagonal(axes, sheet, 0)
    n = view.entry[1] if view.entry and view.look.finding.quantity in ("di", "df") else None
    if n is not None and view.axes == ("s",):
        _frame(axes, (x + n, y + n), 1, S - n, "summed")
    elif n:
        _frame(axes, (x, y + n), n, S - n, "summed")
    axes.set_xticks([x + s + 0.5 for s in _spread(S, n)], [str(s) for s in _spread(S, n)], fontsize=8)
    axes.set_yticks([y + t + 0.5 for t in _spread(S, n)], [str(t) for t in _spread(S, n)], fontsize=8)
    axes.set_xlim(x, x + S)
    axes.set_ylim(y + S, y)
    name = f" of {view.names[view.worst]}" if view.names[view.worst] else ""
    framed = "" if n is None else "; framed: what the entry sums"
    axes.set_title(f"cotangent G{name}, up to ±{scale.most:.3g}{framed}", fontsize=9)


def _legend(figure: Figure) -> None:
    """Say what the colours that are no numbers mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    flat = [
        ("NaN", colours.NAN),
        ("+inf", colours.POS_INF),
        ("-inf in the causal part", colours.NEG_INF),
        ("finite, far below any exact", colours.BELOW),
        ("finite, far above", colours.ABOVE),
    ]
    handles: list[Any] = [Patch(facecolor=colour, label=text) for text, colour in flat]
    hatched = [("masked, -inf", "////", colours.MASKED), ("not judged", "...", colours.UNJUDGED)]
    for text, pattern, colour in hatched:
        handles.append(Patch(facecolor=colour, edgecolor="#a8a8a8", hatch=pattern, label=text))
    handles.append(Patch(facecolor=PAPER, edgecolor=INK, lw=2, label="the entry named"))
    handles.append(Line2D([], [], color=INK, lw=4, label="its window, gates s+1 .. t"))
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), fontsize=8, frameon=False)


def figure(looks: Sequence[Look]) -> Figure:
    """Build the figure: a row of panels for each look, in their order, and the legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: list[Words | Matrices | Bands] = []
    for look in looks:
        view = view_of(look)
        rows.append(Words(look) if view is None else Matrices(view) if view.matrix else Bands(view))
    height = 0.15 + sum(row.height for row in rows) + LEGEND
    drawn = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(drawn)
    page, y = Page(drawn, height), 0.15
    for row in rows:
        row.draw(page, y)
        y += row.height
    _legend(drawn)
    return drawn


def draw(looks: Sequence[Look], file: Path) -> None:
    """Draw the looks, the smallest case first, into a PNG file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the font lacks is no reason to have no picture
        figure(looks).savefig(file, format="png", dpi=DPI)

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmat.testing import colours
from dmat.testing.colours import Rgb, Scale
from dmat.testing.exact import Array, Mask
from dmat.testing.look import Look
from dmat.testing.pattern import failing_entries, head_name, inner_axes, split_shape, worst_head
from dmat.testing.verdict import Evidence, Finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, DPI = 15.6, 100  # inches, pixels an inch
PANEL, LEFT, APART = 4.3, 0.85, 0.6  # inches: a panel's width, and what is left beside it
MOST = 6  # so many heads are drawn
PRINTED = 6  # so many cells in a row have their number written in them
TILE = 72  # pixels along a tile's longer side, at least
INK, PAPER = "#111111", "#ffffff"


# What is drawn of a look


@dataclass(frozen=True)
class View:
    """A look with its arrays head by head: (heads, T, S) of a matrix, (heads, 1, S) of a vector.

    heads: the shape of the axes before. shown: which heads are drawn, and in how many `columns`. worst: the
    place of the finding's head among those shown. entry: (t, s) in it, or None. gates: igate and fgate,
    (heads, S), or None where the entries are no longer beside their gates.
    """

    look: Look
    axes: tuple[str, ...]
    heads: tuple[int, ...]
    shown: list[int]
    columns: int
    worst: int
    entry: tuple[int, int] | None
    computed: Array
    exact: Array
    ratio: Array
    judged: Mask
    gates: tuple[Array, Array] | None

    @property
    def matrix(self) -> bool:
        """Whether one head is a matrix."""
        return len(self.axes) == 2

    @property
    def names(self) -> list[str]:
        """The names of the heads shown; "" where there are no heads."""
        if not self.heads:
            return [""]
        return [head_name(tuple(int(i) for i in np.unravel_index(n, self.heads))) for n in self.shown]

    @property
    def causal(self) -> Mask | None:
        """Which entries of a matrix are causal, (S, S); None of a vector, or of a part of a matrix."""
        T, S = self.exact.shape[1:]
        return np.tri(S, dtype=bool) if self.matrix and T == S else None


def shown_heads(heads: tuple[int, ...], worst: int, most: int) -> list[int]:
    """Return all heads, or where there are too many the one that fails and its neighbours."""
    number = int(np.prod(heads))
    if number <= most or len(heads) != 2:
        first = max(0, min(worst - most // 2, number - most))
        return list(range(first, min(number, first + most)))
    B, NH = heads
    b, h = divmod(worst, NH)
    rows = range(max(0, min(b, B - 2)), min(B, max(0, min(b, B - 2)) + 2))
    first = max(0, min(h - 1, NH - most // len(rows)))
    return [row * NH + n for row in rows for n in range(first, min(NH, first + most // len(rows)))]


def _columns(heads: tuple[int, ...], shown: list[int]) -> int:
    """Return in how many columns the matrices stand: one a head, where that makes whole rows."""
    NH = heads[-1] if heads else 1
    wanted = NH if 1 < NH <= 3 else 3
    return max(1, min(wanted, len(shown)))


def gates_of(look: Look) -> tuple[Array, Array] | None:
    """Return igate and fgate of the look as they were built, (heads, S), or None if it has none."""
    gates = look.case.get("gates")
    if gates is None:
        return None
    igate, fgate = gates.values()
    B, NH, S = gates.shape
    return igate.reshape(B * NH, S), fgate.reshape(B * NH, S)


def view_of(look: Look) -> View | None:
    """Return what is to be drawn, or None where the finding has no entries."""
    finding, evidence = look.finding, look.finding.evidence
    if evidence is None or evidence.wrong.size == 0 or evidence.wrong.ndim == 0:
        return None
    axes = inner_axes(finding)
    heads, inside = split_shape(evidence.wrong.shape, axes)
    matrix = len(axes) == 2
    shape = (-1, *inside) if matrix else (-1, 1, *inside)
    worst = worst_head(finding)
    shown = shown_heads(heads, worst, MOST) if heads else [0]

    def part(values: Any) -> Any:
        return np.asarray(values).reshape(shape)[shown]

    return View(
        look,
        axes,
        heads,
        shown,
        _columns(heads, shown),
        shown.index(worst),
        _entry(finding, heads, matrix),
        part(np.asarray(evidence.computed, dtype=np.float64)),
        part(np.asarray(evidence.exact, dtype=np.float64)),
        part(_ratio(evidence)),
        part(evidence.judged | evidence.wrong),
        _gates_beside(look, heads, inside, shown),
    )


def _ratio(evidence: Evidence) -> Array:
    """Return error over allowed, above 1 wherever the verdict found it so."""
    ratio = evidence.ratio
    return np.where(evidence.wrong, np.maximum(ratio, np.nextafter(1.0, 2.0)), ratio)


def _entry(finding: Finding, heads: tuple[int, ...], matrix: bool) -> tuple[int, int] | None:
    place = finding.index[len(heads) :]
    if matrix:
        return (place[0], place[1]) if len(place) == 2 else None
    return (0, place[0]) if place else None


def _gates_beside(
    look: Look, heads: tuple[int, ...], inside: tuple[int, ...], shown: list[int]
) -> tuple[Array, Array] | None:
    gates = gates_of(look)
    number = int(np.prod(heads))
    if gates is None or any(gate.shape != (number, n) for gate in gates for n in inside):
        return None
    return gates[0][shown], gates[1][shown]


# Where things stand in an image


@dataclass(frozen=True)
class Sheet:
    """Tiles in rows and columns, one a head, in pixels: `cell` a side of an entry, across and down.

    Left of each tile is a strip for fgate and above it one for igate, `strip` wide; of a band (a vector)
    both lie above it. `gap` separates the tiles.
    """

    tiles: int
    columns: int
    shape: tuple[int, int]
    cell: tuple[int, int]
    strip: int
    gap: int
    band: bool = False

    @classmethod
    def of(cls, view: View) -> Sheet:
        """Return the sheet for a view."""
        T, S = view.exact.shape[1:]
        tiles = len(view.shown)
        if not view.matrix:
            return cls(tiles, 1, (T, S), (-(-TILE // S), 16), 4, 5, band=True)
        cell = -(-TILE // max(T, S))
        side = cell * max(T, S)
        return cls(tiles, view.columns, (T, S), (cell, cell), side // 14, side // (6 if tiles > 1 else 18))

    @property
    def edges(self) -> tuple[int, int]:
        """What stands left of a tile and above it, gap included."""
        above = 2 * self.strip + 2 if self.band else self.strip + 2
        return (0 if self.band else self.strip + 2) + self.gap, above + self.gap

    @property
    def printed(self) -> bool:
        """Whether there is room for the number of each entry."""
        return self.shape[1] * self.columns <= PRINTED

    @property
    def seen(self) -> float:
        """How wide a frame must be, in pixels, to be seen."""
        return self.size[0] / (150 if self.band else 40)

    @property
    def steps(self) -> tuple[int, int]:
        """How far it is from a tile to the next in its row and in its column."""
        return self.edges[0] + self.cell[0] * self.shape[1], self.edges[1] + self.cell[1] * self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """The width and the height of the whole."""
        rows = -(-self.tiles // self.columns)
        return self.columns * self.steps[0] + 2, rows * self.steps[1] + 2

    def corner(self, tile: int) -> tuple[int, int]:
        """Return x and y of the upper left corner of a tile's entries."""
        row, column = divmod(tile, self.columns)
        return column * self.steps[0] + self.edges[0], row * self.steps[1] + self.edges[1]

    def at(self, tile: int, t: float, s: float) -> tuple[float, float]:
        """Return x and y of the upper left corner of an entry."""
        x, y = self.corner(tile)
        return x + self.cell[0] * s, y + self.cell[1] * t

    def compose(self, entries: Rgb, edges: tuple[Rgb, Rgb] | None) -> Rgb:
        """Return one image of the entries of each tile, (tiles, T, S, 3), and the gates beside them."""
        width, height = self.size
        image = np.ones((height, width, 3))
        across, down = self.cell
        for n in range(self.tiles):
            x, y = self.corner(n)
            tile = entries[n].repeat(down, 0).repeat(across, 1)
            image[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            if edges is None:
                continue
            igate, fgate = (edge[n].repeat(across, 0) for edge in edges)
            image[y - 2 - self.strip : y - 2, x : x + len(igate)] = igate
            if self.band:
                image[y - 2 - 2 * self.strip : y - 2 - self.strip, x : x + len(fgate)] = fgate
            else:
                image[y : y + len(fgate), x - 2 - self.strip : x - 2] = fgate[:, None]
        return image

    def cells(self, where: Mask) -> Iterator[tuple[float, float, float, float]]:
        """Yield x, y, width and height of each run of entries in a row of a tile, `where` (tiles, T, S)."""
        edge = np.diff(np.pad(where.astype(np.int8), ((0, 0), (0, 0), (1, 1))), axis=-1)
        starts, ends = np.argwhere(edge == 1), np.argwhere(edge == -1)
        for (tile, t, start), (_, _, end) in zip(starts, ends, strict=True):
            yield *self.at(tile, t, start), self.cell[0] * (end - start), self.cell[1]


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

"""The square panel beside a row: G of a gradient of D~, or T of a delta rule."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from dmat.testing.explain.picture.colours import Scale
from dmat.testing.explain.picture.inverse import Inverse
from dmat.testing.explain.picture.marks import diagonal, frame, hatch, numbered, numbers
from dmat.testing.explain.picture.tiles import Tiles
from dmat.testing.explain.picture.view import View
from dmat.testing.oracle.arithmetic import Array


def _square(axes: Axes, x: Array, name: str, title: str, named: int | None, first: int = 0) -> None:
    """Draw a matrix that is 0 above its diagonal. named: the index that is labelled. first: that of row 0."""
    n, scale = len(x), Scale.of(x)
    image = scale.paint(x)
    axes.imshow(image, extent=(0, n, n, 0), interpolation="nearest")
    tiles, above = Tiles(1, 1, (n, n)), ~np.tri(n, dtype=bool)[None]
    hatch(axes, tiles, above, "//", f"mask of {name}")
    diagonal(axes, tiles, 0)
    if tiles.printed and name == "T":
        numbers(axes, tiles, np.ma.array(x[None], mask=above), image[None])
    labels = numbered(n, named)
    axes.set_xticks([s + 0.5 for s in labels], [str(first + s) for s in labels], fontsize=8)
    axes.set_yticks([t + 0.5 for t in labels], [str(first + t) for t in labels], fontsize=8)
    axes.set(xlim=(0, n), ylim=(n, 0))
    axes.set_title(title, fontsize=9)


def cotangent_panel(axes: Axes, view: View, G: Array) -> None:
    """Draw G. Frame the part that the named entry sums: di a column, df rows t >= k by columns s < k."""
    S = len(G)
    n = view.entry[1] if view.entry and view.example.finding.quantity in ("di", "df") else None
    name = f" of {view.names[view.worst]}" if view.names[view.worst] else ""
    framed = "" if n is None else "; framed: what the entry sums"
    _square(axes, G, "G", f"cotangent G{name}, up to ±{Scale.of(G).most:.3g}{framed}", n)
    if n is not None and view.axes == ("s",):
        frame(axes, (n, n, 1, S - n), "summed")
    elif n:
        frame(axes, (0, n, n, S - n), "summed")


def cotangent_of(view: View) -> Array | None:
    """Return G of the finding's head, (S, S), or None.

    G is drawn beside a vector only, and only if the vector's heads are the gates' heads.
    """
    gates, cotangent = view.example.case.get("gates"), view.example.case.get("cotangent")
    if view.matrix or gates is None or cotangent is None or view.gates is None:
        return None
    G = cotangent.build(gates).double().numpy()
    head: Array = G.reshape(-1, *G.shape[2:])[view.shown[view.worst]]
    return head


def inverse_panel(axes: Axes, inverse: Inverse) -> None:
    """Draw T. Frame the row of the named entry."""
    _square(axes, inverse.T, "T", inverse.title, inverse.row, inverse.start)
    axes.set_xlabel("column s", fontsize=9)
    axes.set_ylabel("row t", fontsize=9)
    if inverse.row is not None:
        frame(axes, (0, inverse.row, inverse.row + 1, 1), "row of T")

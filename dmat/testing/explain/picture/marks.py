"""Marks that the panels of a picture share: outlines, hatches, a frame, the diagonal, and printed numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke

from dmat.testing.explain.picture.colours import Rgba
from dmat.testing.explain.picture.tiles import Box, Tiles
from dmat.testing.oracle.arithmetic import Array, Mask

INK, PAPER, HATCH = "#111111", "#ffffff", "#a8a8a8"


def boxes(axes: Axes, each: Sequence[Box], **style: Any) -> None:
    """Outline or hatch boxes, all as one artist."""
    unit = Outline.unit_rectangle()
    corners = np.array(each)[:, None]
    vertices = corners[..., :2] + corners[..., 2:] * unit.vertices
    codes = np.tile(np.asarray(unit.codes), len(each))
    axes.add_patch(PathPatch(Outline(vertices.reshape(-1, 2), codes), fill=False, **style))


def hatch(axes: Axes, tiles: Tiles, where: Mask, pattern: str, name: str) -> None:
    """Hatch the entries of `where`, (tiles, T, S), as one artist of this name."""
    if where.any():
        boxes(axes, tiles.runs(where), hatch=pattern, edgecolor=HATCH, lw=0, gid=name)


def frame(axes: Axes, box: Box, name: str) -> None:
    """Frame a box in dark on a light halo, which is visible on any colour."""
    halo = [withStroke(linewidth=4, foreground=PAPER)]
    left, top, width, height = box
    axes.add_patch(
        Rectangle((left, top), width, height, fill=False, edgecolor=INK, lw=2, gid=name, path_effects=halo)
    )


def diagonal(axes: Axes, tiles: Tiles, tile: int) -> None:
    """Draw the staircase between the causal part and the future."""
    n = np.arange(tiles.shape[1] + 1)
    x, y = tiles.at(tile, 0, 0)
    axes.step(x + n, y + n, where="post", color="#444444", lw=0.7)


def numbers(axes: Axes, tiles: Tiles, values: Array, image: Rgba) -> None:
    """Write each value into its entry: dark text on light colours, light text on dark ones."""
    for tile, t, s in np.argwhere(~np.ma.getmaskarray(values)):
        x, y = tiles.at(tile, t + 0.5, s + 0.5)
        colour = INK if image[tile, t, s, :3] @ np.array([0.3, 0.59, 0.11]) > 0.45 else PAPER
        text = f"{values[tile, t, s]:.4g}"
        axes.text(x, y, text, color=colour, fontsize=8, ha="center", va="center", gid="number")


def numbered(size: int, named: int | None) -> list[int]:
    """Return the indices to label on an axis: both ends, and the named index or else the middle."""
    middle = size // 2 if named is None else named
    crowded = {end for end in (0, size - 1) if 0 < abs(end - middle) < size / 8}
    return sorted({0, middle, size - 1} - crowded)

"""Where the entries of a matrix, or of a band, stand in an image: a tile a head, with gates beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dmat.testing.colours import Rgb
from dmat.testing.exact import Mask
from dmat.testing.view import View

PRINTED = 6  # so many cells in a row have their number written in them
TILE = 72  # pixels along a tile's longer side, at least


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

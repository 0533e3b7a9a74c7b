"""Positions of the tiles of a panel. A tile is one head, a matrix or a band, with its gates beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmat.testing.explain.picture.colours import Rgba
from dmat.testing.explain.picture.view import View
from dmat.testing.oracle.arithmetic import Array, Mask

PRINTED = 6  # entries show their numbers if a tile has at most this many rows, and a row of tiles columns

Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class Tiles:
    """Tiles in rows and columns. Coordinates: x to the right, y downwards, an entry has size 1.

    count: tiles in the panel. columns: tiles in a row. shape: rows T and columns S of a tile. strip: the
    width of the strips of gates. A matrix has fgate on its left and igate above it; a band (a vector) has
    both above it. Half a strip's width separates a strip from its neighbour. gap: the space between tiles.
    """

    count: int
    columns: int
    shape: tuple[int, int]
    strip: float = 0.0
    gap: float = 0.0
    band: bool = False

    @classmethod
    def of(cls, view: View) -> Tiles:
        """Return the tiles of a view's panels."""
        (T, S), count, gates = view.exact.shape[1:], len(view.shown), view.gates is not None
        if not view.matrix:
            return cls(count, 1, (T, S), 0.25 * gates, 0.3, band=True)
        side = max(T, S)
        return cls(count, view.columns, (T, S), side / 14 * gates, side / (6 if count > 1 else 18))

    @property
    def _edges(self) -> tuple[float, float]:
        """The width left of a tile and the height above it, for the gates and the gap."""
        strips = (0.0, 2.5) if self.band else (1.5, 1.5)
        return strips[0] * self.strip + self.gap * (not self.band), strips[1] * self.strip + self.gap

    @property
    def printed(self) -> bool:
        """Whether entries have room for their numbers."""
        return max(self.shape[0], self.shape[1] * self.columns) <= PRINTED

    @property
    def margin(self) -> tuple[float, float]:
        """The distances, across and down, by which a visible frame must exceed its entry."""
        wider = max(0.0, (self.size[0] / (150 if self.band else 40) - 1) / 2)
        return wider, 0.06 if self.band else wider

    @property
    def _steps(self) -> tuple[float, float]:
        """The distance from a tile to the next one in its row, and in its column."""
        return self._edges[0] + self.shape[1], self._edges[1] + self.shape[0]

    @property
    def size(self) -> tuple[float, float]:
        """The width and height of all tiles, with a margin on the right and below."""
        rows, margin = -(-self.count // self.columns), 0.1 if self.band else max(self.shape) / 36
        width = self.columns * self._steps[0]
        return width * 1.002 if self.band else width + margin, rows * self._steps[1] + margin

    def at(self, tile: int, t: float, s: float) -> tuple[float, float]:
        """Return x and y of the upper left corner of an entry."""
        row, column = divmod(tile, self.columns)
        left, top = self._edges
        return column * self._steps[0] + left + s, row * self._steps[1] + top + t

    def boxes(self, tile: int) -> list[Box]:
        """Return the box of a tile's entries, then the boxes of igate and fgate if they are drawn."""
        (x, y), (T, S), strip = self.at(tile, 0, 0), self.shape, self.strip
        if not strip:
            return [(x, y, S, T)]
        fgate = (x, y - 2.5 * strip, S, strip) if self.band else (x - 1.5 * strip, y, strip, T)
        return [(x, y, S, T), (x, y - 1.5 * strip, S, strip), fgate]

    def runs(self, where: Mask) -> list[Box]:
        """Return a box for each run of True entries in a row of a tile. where: (tiles, T, S)."""
        edge = np.diff(np.pad(where.astype(np.int8), ((0, 0), (0, 0), (1, 1))), axis=-1)
        starts, ends = np.argwhere(edge == 1), np.argwhere(edge == -1)
        return [(*self.at(*start), end - start[2], 1) for start, end in zip(starts, ends[:, 2], strict=True)]

    def compose(self, entries: Rgba, gates: tuple[Rgba, Rgba] | None) -> tuple[Array, Array, Rgba]:
        """Return edges in x, edges in y, and one image of the entries, (tiles, T, S, 4), and of the gates."""
        (T, S), rows, columns = self.shape, -(-self.count // self.columns), self.columns
        strips = [self.strip] * self.band + [self.strip, self.strip / 2]
        down = np.tile([self.gap, *strips, *[1.0] * T], rows)
        across = np.tile([*([] if self.band else [self.gap, *strips]), *[1.0] * S], columns)
        top, left = len(strips) + 1, 0 if self.band else 3
        image = np.ones((rows, top + T, columns, left + S, 4))
        for n in range(self.count):
            row, column = divmod(n, columns)
            tile = image[row, :, column]
            tile[top:, left:] = entries[n]
            if gates is not None:
                igate, fgate = gates[0][n], gates[1][n]
                tile[top - 2, left:] = igate
                tile[(1, slice(None)) if self.band else (slice(top, None), 1)] = fgate
        edges = [np.append(0.0, np.cumsum(widths)) for widths in (across, down)]
        return edges[0], edges[1], image.reshape(len(down), len(across), 4)

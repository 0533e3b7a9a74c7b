"""The colours of a picture: a scale for signed numbers of any size, and one for error / allowed.

NaN, infinities, finite numbers far beyond a scale, and entries that were not judged have separate colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import (
    AsinhNorm,
    BoundaryNorm,
    Colormap,
    LinearSegmentedColormap,
    ListedColormap,
    to_rgba,
)

from dmat.testing.oracle.arithmetic import Array, Mask

Rgba = npt.NDArray[np.float64]  # in [0, 1], last axis 4

NAN = "#ffe100"
POS_INF = "#ff00c8"  # also an infinite error / allowed
NEG_INF = "#000000"
BELOW, ABOVE = "#00b5a0", "#8fd400"  # finite, and beyond FAR times the end of the scale
FAR = 2.0
MASKED = "#f4f4f4"
UNJUDGED = "#e6e6e6"
LEGEND = {
    "NaN": NAN,
    "+inf": POS_INF,
    "-inf in the causal part": NEG_INF,
    "finite, far below any exact": BELOW,
    "finite, far above": ABOVE,
}


def _ramp(*colours: str) -> LinearSegmentedColormap:
    """Return a colour map from the first colour to the last. N is odd, so that there is a middle step."""
    return LinearSegmentedColormap.from_list("dmat", colours, N=255)


def _signed(*colours: str) -> Colormap:
    """Return a colour map of signed numbers: the first colour is the most negative, the middle one is 0."""
    return _ramp(*colours).with_extremes(bad=NAN, under=BELOW, over=ABOVE)


VALUES = _signed(
    "#08206b", "#2166ac", "#6fb1d9", "#cfe3ef", "#ffffff", "#fbd9c6", "#ef8a62", "#b2182b", "#5f0010"
)  # blue or red
GATES = _signed(
    "#3b0a58", "#762a83", "#ad8bbd", "#e2d5e8", "#ffffff", "#d5ecd0", "#7fbf7b", "#1b7837", "#00351a"
)  # violet or green


@dataclass(frozen=True)
class Scale:
    """A scale of signed numbers: linear up to about `linear`, logarithmic from there to `most`."""

    linear: float
    most: float
    colours: Colormap

    @classmethod
    def of(cls, *arrays: Array, colours: Colormap = VALUES) -> Scale:
        """Return a scale fitted to the first array that has a finite number other than 0."""
        for values in arrays:
            sizes = np.abs(values[np.isfinite(values) & (values != 0)])
            if sizes.size:
                most = float(sizes.max())
                lower = float(np.quantile(sizes, 0.25, method="lower"))
                return cls(max(lower, most * 1e-300), most, colours)
        return cls(1.0, 1.0, colours)

    @property
    def norm(self) -> AsinhNorm:
        """matplotlib's norm for numbers divided by `most`: the division avoids overflow and underflow."""
        return AsinhNorm(linear_width=self.linear / self.most, vmin=-1, vmax=1)

    def place(self, values: Array) -> Array:
        """Return the positions of numbers on the scale: in [0, 1], or outside if far beyond the scale."""
        with np.errstate(over="ignore"):
            parts = values.ravel() / self.most  # the norm rejects arrays of 3 axes
        places = self.norm(np.where(np.abs(parts) <= FAR, parts.clip(-1, 1), parts.clip(-2 * FAR, 2 * FAR)))
        return np.asarray(places.filled(np.nan)).reshape(values.shape)

    def paint(self, values: Array) -> Rgba:
        """Return the colours of values, infinities and NaN included."""
        image = np.asarray(self.colours(self.place(values)))
        image[values == np.inf] = to_rgba(POS_INF)
        image[values == -np.inf] = to_rgba(NEG_INF)
        return image

    def bar(self, axes: Axes, name: str) -> None:
        """Draw the scale as a colour bar into the axes, with its name on the left."""
        linear = self.linear / self.most
        apart = 0.15 <= 2 * float(self.norm(linear)) - 1 <= 0.7
        ticks = [-1.0, -linear, 0.0, linear, 1.0] if apart else [-1.0, 0.0, 1.0]
        labels = [f"{self.most * tick:.3g}" for tick in ticks]
        _bar(axes, ScalarMappable(self.norm, self.colours), "both", ticks, labels)
        axes.set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center", labelpad=18)


def _bar(axes: Axes, scale: ScalarMappable, extend: str, ticks: list[float], labels: list[str]) -> None:
    """Draw a scale as a colour bar into the axes. Triangles at its ends show the colours beyond it."""
    bar = axes.figure.colorbar(scale, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.03)
    bar.set_ticks(ticks, labels=labels)
    bar.minorticks_off()
    axes.tick_params(length=2, pad=2, labelsize=8)


# Errors within their bounds are pale, errors beyond are loud. The steps are finest just beyond the bound.
STEPS = 64
MOST = 2.0**1022  # not float64's largest: matplotlib adds neighbouring boundaries
RATIOS = BoundaryNorm(
    [
        *np.geomspace(1e-3, 1, STEPS, endpoint=False),
        np.nextafter(1.0, 2.0),
        *10 ** (6 * np.linspace(0, 1, STEPS + 1)[1:] ** (1 / 0.6)),
        MOST,
    ],
    2 * STEPS + 1,
)
PALE = _ramp("#ffffff", "#d3dbe3", "#b4c2d0")(np.linspace(0, 1, STEPS))
LOUD = _ramp("#ffb74d", "#fb6a1e", "#d7191c", "#67000d")(np.linspace(0, 1, STEPS + 1))
RATIO_COLOURS = ListedColormap([*PALE, *LOUD]).with_extremes(bad=UNJUDGED, under="#ffffff", over=POS_INF)


def paint_ratios(ratio: Array, judged: Mask) -> Rgba:
    """Return the colours of error / allowed. Entries that were not judged get a colour of their own."""
    return np.asarray(RATIO_COLOURS(RATIOS(np.ma.array(ratio, mask=~judged))))


def ratio_bar(axes: Axes, ink: str) -> None:
    """Draw the colour bar of error / allowed, with a line at 1."""
    ticks = {1e-3: "0.001", 1.0: "1 = allowed", 100.0: "100", 1e4: "1e4", MOST: "inf"}
    _bar(axes, ScalarMappable(RATIOS, RATIO_COLOURS), "max", list(ticks), list(ticks.values()))
    axes.axvline(1.0, color=ink, lw=2, gid="allowed")

"""The colours of a picture: signed numbers of any size on one scale, errors over their bound on another.

Both are plain arrays in, RGB in [0, 1] out, last axis 3. What is no number has a colour of its own: a NaN
or an infinity is never mistaken for a large value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dmat.testing.exact import Array, Mask

Rgb = npt.NDArray[np.float64]

NAN = "#ffe100"
POS_INF = "#ff00c8"  # an error over its bound that is infinite has it too
NEG_INF = "#000000"
BELOW, ABOVE = "#00b5a0", "#8fd400"  # finite, and far beyond the scale
FAR = 2.0  # times the scale's end: beyond this a number is no longer drawn as if it stood there
MASKED = "#f4f4f4"
UNJUDGED = "#e6e6e6"

# From most negative over 0 to most positive; values are blue or red, gates violet or green.
VALUES = ("#08206b", "#2166ac", "#6fb1d9", "#cfe3ef", "#ffffff", "#fbd9c6", "#ef8a62", "#b2182b", "#5f0010")
GATES = ("#3b0a58", "#762a83", "#ad8bbd", "#e2d5e8", "#ffffff", "#d5ecd0", "#7fbf7b", "#1b7837", "#00351a")
QUIET = ("#ffffff", "#d3dbe3", "#b4c2d0")  # errors up to what is allowed
LOUD = ("#ffb74d", "#fb6a1e", "#d7191c", "#67000d")  # errors beyond it


def rgb(colour: str) -> Rgb:
    """Return "#rrggbb" as three numbers in [0, 1]."""
    return np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])


def ramp(where: Array, colours: tuple[str, ...]) -> Rgb:
    """Return the colours at places in [0, 1] along a row of colours, mixed between neighbours."""
    stops = np.linspace(0, 1, len(colours))
    mixed = np.stack([rgb(colour) for colour in colours], -1)
    return np.stack([np.interp(where, stops, channel) for channel in mixed], -1)


@dataclass(frozen=True)
class Scale:
    """A scale of signed numbers: proportional up to about `linear`, logarithmic from there to `most`."""

    linear: float
    most: float

    @classmethod
    def of(cls, *arrays: Array) -> Scale:
        """Return a scale for the first of these arrays that has a number other than 0 in it."""
        for values in arrays:
            sizes = np.abs(values[np.isfinite(values) & (values != 0)])
            if sizes.size:
                most = float(sizes.max())
                return cls(max(float(np.quantile(sizes, 0.25, method="lower")), most * 1e-300), most)
        return cls(1.0, 1.0)

    def place(self, values: Array) -> Array:
        """Return where numbers stand between -1 and 1; those beyond the scale stand at its ends."""
        inside = np.clip(values, -self.most, self.most) / self.linear
        return np.asarray(np.arcsinh(inside) / np.arcsinh(self.most / self.linear))

    @property
    def ticks(self) -> list[float]:
        """Numbers to write beside the scale."""
        apart = 0.15 <= self.place(np.array(self.linear)) <= 0.7
        sizes = [self.linear, self.most] if apart else [self.most]
        return sorted([0.0, *sizes, *(-size for size in sizes)])


def paint(values: Array, scale: Scale, colours: tuple[str, ...] = VALUES) -> Rgb:
    """Return the colours of numbers, infinities and NaN; those far beyond the scale stand out."""
    finite = np.isfinite(values)
    image = ramp((scale.place(np.where(finite, values, 0.0)) + 1) / 2, colours)
    with np.errstate(invalid="ignore", over="ignore"):
        image[finite & (values < -FAR * scale.most)] = rgb(BELOW)
        image[finite & (values > FAR * scale.most)] = rgb(ABOVE)
    for special, colour in ((values == np.inf, POS_INF), (values == -np.inf, NEG_INF)):
        image[special] = rgb(colour)
    image[np.isnan(values)] = rgb(NAN)
    return image


LEAST = -3.0  # the quietest error over bound that is told from 0, a power of ten
MOST = 6.0  # the loudest that is told from more


def paint_ratios(ratio: Array, judged: Mask) -> Rgb:
    """Return the colours of errors over what is allowed: pale up to 1, glaring beyond, most if infinite."""
    with np.errstate(divide="ignore"):
        power = np.log10(ratio)
    quiet = ramp(np.clip(1 - power / LEAST, 0, 1), QUIET)
    loud = ramp(np.clip(power / MOST, 0, 1) ** 0.6, LOUD)  # steepest just beyond what is allowed
    image = np.where((ratio > 1)[..., None], loud, quiet)
    image[ratio == np.inf] = rgb(POS_INF)
    image[~judged] = rgb(UNJUDGED)
    return image

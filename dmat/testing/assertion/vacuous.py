"""Whether a tolerance proves nothing: wrong outputs that lie within it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dmat.testing.assertion.arguments import dtype_of

LAYOUTS = {"BHSD": ("B", "NH", "S", "D"), "BSHD": ("B", "S", "NH", "D")}
OF_AXES = {"B": "the next batch", "NH": "the next head", "S": "the row before", "D": "the next column"}


@dataclass(frozen=True)
class Vacuous:
    """Which wrong outputs lie within a tolerance. True if one does: a test with it proves too little.

    passing: the wrong outputs that pass. tried: all that were tried. rtol, atol: the tolerance.
    """

    passing: tuple[str, ...]
    tried: tuple[str, ...]
    rtol: float
    atol: float

    def __bool__(self) -> bool:
        """Return whether a wrong output passes."""
        return bool(self.passing)

    def __str__(self) -> str:
        """Return one line."""
        tolerance = f"rtol={self.rtol:g}, atol={self.atol:g}"
        if not self.passing:
            return f"{tolerance} rejects {', '.join(self.tried)}"
        return f"{tolerance} proves nothing: {', '.join(self.passing)} would pass"


def vacuous(reference: Tensor, rtol: float, atol: float, *, layout: str = "BHSD") -> Vacuous:
    """Say which wrong outputs lie within a tolerance of a reference, by the rule of torch's assert_close.

    Tried: zeros, the sign changed, twice and half the reference, the mean of each row, and along each axis
    that has more than one place, the next batch, the next head, the row before, the next column.
    reference: the right output, (B, NH, S, n) in the order of `layout`, or its last axes. rtol, atol: those
    of your test. Raises TypeError or ValueError, in one line, for an argument that is wrong.
    """
    _require(reference, rtol, atol, layout)
    exact = reference.detach().double()
    found = dict(_substitutes(exact, LAYOUTS[layout][4 - reference.ndim :]))
    within = {
        name: bool(torch.isclose(x, exact, rtol=rtol, atol=atol, equal_nan=True).all())
        for name, x in found.items()
    }
    passing = tuple(name for name, passes in within.items() if passes)
    return Vacuous(passing, tuple(found), rtol, atol)


def _substitutes(exact: Tensor, axes: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield wrong outputs by name."""
    yield "zeros", torch.zeros_like(exact)
    yield "the sign changed", -exact
    yield "twice the output", 2 * exact
    yield "half the output", exact / 2
    if exact.shape[-1] > 1:
        yield "the mean of each row", exact.mean(-1, keepdim=True).expand_as(exact)
    for axis, name in enumerate(axes):
        if exact.shape[axis] > 1:
            yield OF_AXES[name], exact.roll(1 if name == "S" else -1, axis)


def _require(reference: object, rtol: float, atol: float, layout: str) -> None:
    if not isinstance(reference, Tensor):
        raise TypeError(f"reference is a {type(reference).__name__}; expected a torch.Tensor")
    if not 1 <= reference.ndim <= 4 or not reference.numel():
        raise ValueError(
            f"reference has the shape {tuple(reference.shape)}; expected 1 to 4 axes, none of them 0"
        )
    dtype_of("reference", reference)
    if not reference.isfinite().any():
        raise ValueError("reference holds no finite number; expected the right output of your test")
    for name, value in {"rtol": rtol, "atol": atol}.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{name} is {value!r}; expected a number of at least 0")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected {' or '.join(LAYOUTS)}")

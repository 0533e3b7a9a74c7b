"""Recipes for cotangents G = dL/dD~, and the functions that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor

from dmat.strategies.choose import Draw, between, choose, seed, some
from dmat.strategies.recipes.backgrounds import (
    Background,
    Constant,
    Cycle,
    Diagonal,
    Edited,
    Normal,
    Palette,
    Row,
    Shape,
    Sum,
    rounded,
)
from dmat.strategies.recipes.gates import Gates, significand_bits
from dmat.strategies.recipes.layouts import (
    COTANGENT_LAYOUTS,
    PER_HEAD,
    PER_ROW,
    SAME_VALUES,
    draw_layout,
    lay_out,
)
from dmat.strategies.recipes.recipe import Recipe


@dataclass(frozen=True, repr=False)
class Cotangent(Recipe):
    """A recipe for G, (B, NH, S, S), for the D~ of some gates.

    values: the entries at t >= s (finite). masked: the value above the diagonal, where D~ is the constant
    -inf. layout: a name of COTANGENT_LAYOUTS. An expanded layout repeats its first slice, including the
    part above the diagonal.
    """

    values: Background = Constant(1.0)
    masked: float = 0.0
    layout: str = "contiguous"

    def build(self, gates: Gates, device: str = "cpu", poison: float = float("nan")) -> Tensor:
        """Return G, (B, NH, S, S), in the gates' dtype and its layout on `device`, surrounded by `poison`."""
        B, NH, S = gates.shape
        G = rounded(self.values.fill((B, NH, S, S)), getattr(torch, gates.dtype))
        if self.layout not in PER_ROW:
            G.masked_fill_(~torch.ones(S, S, dtype=torch.bool).tril(), self.masked)
        return lay_out(G.to(device), self.layout, poison)


def largest_cotangent(dtype: str) -> float:
    """Return the largest magnitude of causal cotangents that is drawn (docs/spec.md section 2)."""
    return {"float64": 2.0**511, "float16": torch.finfo(torch.float16).max}.get(dtype, 2.0**63)


def _dense(draw: Draw, kind: str, sizes: Sequence[float], S: int) -> Background:
    """Draw a background of this kind for the causal part."""
    match kind:
        case "constant":
            return Constant(choose(draw, sizes))
        case "cycle":
            return Cycle(some(draw, sizes, 2, 4))
        case "diagonal":
            return Diagonal(choose(draw, sizes), between(draw, 0, max(0, S - 1)))
        case "row":
            return Row(choose(draw, sizes), between(draw, 0, max(0, S - 1)))
        case "last row":
            return Row(choose(draw, sizes))
        case "palette":
            return Palette(seed(draw), some(draw, sizes, 2, 5))
    noise = Normal(seed(draw), choose(draw, (1.0, 1e-3, 100.0)))
    if kind == "heavy diagonal":
        return Sum(noise, Diagonal(choose(draw, (1e4, 1e6, -1e4))))
    return noise


def _sparse(draw: Draw, shape: Shape, sizes: Sequence[float]) -> Background:
    """Draw zeros with one to four causal entries (t >= s)."""
    if 0 in shape:
        return Constant(0.0)
    edits = []
    for _ in range(between(draw, 1, 4)):
        heads = tuple(between(draw, 0, axis - 1) for axis in shape[:-1])
        t = between(draw, 0, shape[-1] - 1)
        edits.append(((*heads, t, between(draw, 0, t)), choose(draw, sizes)))
    return Edited(Constant(0.0), tuple(edits))


@cache
def _sizes(dtype: str) -> tuple[float, ...]:
    large = largest_cotangent(dtype)
    least = torch.finfo(getattr(torch, dtype)).smallest_normal
    return (1.0, -1.0, 0.5, 2.0, 3.0, 1e-3, 0.0, 1e4, large, -large, least, least / 4)


KINDS = (
    *("constant", "last row", "cycle", "sparse", "diagonal", "row", "noise", "sparse"),
    *("palette", "noise", "heavy diagonal"),
)
PLAIN_LAYOUTS = (*SAME_VALUES, "matrix transposed", *PER_HEAD)


def draw_cotangent(
    draw: Draw, gates: Gates, masked: Sequence[float] = (0.0,), expanded: bool = True
) -> Cotangent:
    """Draw a cotangent for the D~ of these gates; see `cotangents`."""
    kind = choose(draw, KINDS)
    sizes = _sizes(gates.dtype)
    S = gates.shape[-1]
    if kind == "sparse":
        values = _sparse(draw, gates.shape, sizes)
    else:
        values = _dense(draw, kind, sizes, S)
    layouts = tuple(COTANGENT_LAYOUTS) if expanded else PLAIN_LAYOUTS
    return Cotangent(values, choose(draw, masked), draw_layout(draw, layouts))


def draw_moderate_cotangent(draw: Draw, gates: Gates, sizes: Sequence[float]) -> Cotangent:
    """Draw a cotangent with only these values, in a layout that repeats no rows."""
    kind = choose(draw, ("constant", "last row", "cycle", "sparse", "diagonal", "row", "palette"))
    S = gates.shape[-1]
    values = _sparse(draw, gates.shape, sizes) if kind == "sparse" else _dense(draw, kind, sizes, S)
    return Cotangent(values, layout=draw_layout(draw, PLAIN_LAYOUTS))


@st.composite
def cotangents(
    draw: st.DrawFn, gates: Gates, *, masked: Sequence[float] = (0.0,), expanded: bool = True
) -> Cotangent:
    """Draw a cotangent for the D~ of these gates.

    masked: the values that may stand above the diagonal. expanded: whether layouts may be drawn in which rows
    or the whole matrix have stride 0; in these the part above the diagonal cannot be chosen.
    """
    return draw_cotangent(draw, gates, masked, expanded)


def exact_budget(dtype: str, accumulator: str) -> int:
    """Return the largest sum of |G| of the exact regime (docs/spec.md section 4)."""
    return int(2 ** min(significand_bits(dtype), significand_bits(accumulator)))


def draw_exact_cotangent(draw: Draw, gates: Gates, accumulator: str) -> Cotangent:
    """Draw small integers whose sum of magnitudes is at most exact_budget."""
    S = gates.shape[-1]
    budget = exact_budget(gates.dtype, accumulator)
    dense_most = budget // max(1, S * (S + 1) // 2)
    kinds: tuple[str, ...] = ("sparse",)
    most = budget // 16
    if dense_most >= 1:
        kinds, most = ("constant", "cycle", "palette", "sparse"), min(dense_most, most)
    elif budget // S >= 1:
        kinds, most = ("last row", "row", "diagonal", "sparse"), min(budget // S, most)
    sizes = tuple(float(between(draw, -min(most, 9), min(most, 9))) for _ in range(3))
    kind = choose(draw, kinds)
    sparse = kind == "sparse"
    values = _sparse(draw, gates.shape, sizes) if sparse else _dense(draw, kind, sizes, S)
    return Cotangent(values, layout=draw_layout(draw, PLAIN_LAYOUTS))


@st.composite
def exact_cotangents(draw: st.DrawFn, gates: Gates, *, accumulator: str = "float32") -> Cotangent:
    """Draw small integers whose sums are exact in every order (docs/spec.md section 4)."""
    return draw_exact_cotangent(draw, gates, accumulator)

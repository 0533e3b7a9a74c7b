"""Recipes for the gates igate_preact and fgate_preact."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.backgrounds import Array, Background, Constant, Shape, rounded
from dmat.strategies.recipes.layouts import SAME_VALUES, lay_out
from dmat.strategies.recipes.recipe import Recipe

SPECIAL_VALUES = {"-inf": -np.inf, "+inf": np.inf, "nan": np.nan}
UNIT = 64  # exact gates are multiples of it: log sigmoid(-64 n) rounds to -64 n in every format


@dataclass(frozen=True, repr=False)
class MinusWindow(Background):
    """For the input gate only: i[s] = -(sum of log sigmoid(f[k]) over s < k <= t). Row t of D~ is about 0."""

    t: int = -1

    def fill(self, shape: Shape) -> Array:
        """Raise TypeError: the values depend on the forget gate, so `Gates` calls `against` instead."""
        raise TypeError("MinusWindow fills an input gate only: it needs the forget gate")

    def against(self, fgate: Array) -> Array:
        """Return the input gate that cancels the window (t, s) of these forget gates, in float64."""
        log_sigmoid = -np.logaddexp(0.0, -np.where(np.isfinite(fgate), fgate, 0.0))
        if not -fgate.shape[-1] <= self.t < fgate.shape[-1]:
            return np.zeros(fgate.shape)
        last = self.t % fgate.shape[-1]
        log_sigmoid[..., last + 1 :] = 0.0
        # the sum over s < k <= t is the suffix sum that begins at s + 1
        with np.errstate(over="ignore"):
            suffix = np.flip(np.cumsum(np.flip(log_sigmoid, -1), -1), -1)
        cancelling = -np.concatenate([suffix[..., 1:], np.zeros_like(suffix[..., :1])], -1)
        finite: Array = np.minimum(cancelling, np.finfo(np.float64).max)  # finite even if the sum overflows
        return finite


@dataclass(frozen=True, repr=False)
class Gates(Recipe):
    """A recipe for igate_preact and fgate_preact, each (B, NH, S, 1) of one dtype.

    dtype: "float64", "float32", "bfloat16" or "float16". shape: (B, NH, S).
    igate, fgate: the values, which are rounded to dtype. The layouts are names of GATE_LAYOUTS.
    """

    dtype: str
    shape: tuple[int, int, int]
    igate: Background = Constant(0.0)
    fgate: Background = Constant(0.0)
    igate_layout: str = "contiguous"
    fgate_layout: str = "contiguous"

    def wider(self, times: int) -> Gates:
        """Return the recipe for so many times the heads, (B, times NH, S)."""
        B, NH, S = self.shape
        return self if times == 1 else replace(self, shape=(B, times * NH, S))

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return both gates contiguous on the CPU, (B, NH, S, 1), before an expanded layout repeats any."""
        igate, fgate = self._dense
        return igate.clone(), fgate.clone()

    @cached_property
    def filled(self) -> tuple[Array | None, Array]:
        """Both gates in float64, (B, NH, S), before they are rounded. No input gate for a MinusWindow."""
        igate = None if isinstance(self.igate, MinusWindow) else self.igate.fill(self.shape)
        return igate, self.fgate.fill(self.shape)

    @cached_property
    def _dense(self) -> tuple[Tensor, Tensor]:
        """The tensors of `dense`, filled once. Nothing may write to them."""
        dtype = getattr(torch, self.dtype)
        igate, unrounded = self.filled
        fgate = rounded(unrounded, dtype)
        if igate is None:
            assert isinstance(self.igate, MinusWindow)
            igate = self.igate.against(fgate.double().numpy())
        return rounded(igate, dtype).unsqueeze(-1), fgate.unsqueeze(-1)

    def lay_out(
        self, igate: Tensor, fgate: Tensor, device: str = "cpu", poison: float = float("nan")
    ) -> tuple[Tensor, Tensor]:
        """Put any two (B, NH, S, 1) tensors on `device`, in this recipe's layouts."""
        return (
            lay_out(igate.to(device), self.igate_layout, poison),
            lay_out(fgate.to(device), self.fgate_layout, poison),
        )

    def build(self, device: str = "cpu", poison: float = float("nan")) -> tuple[Tensor, Tensor]:
        """Return (igate_preact, fgate_preact), each (B, NH, S, 1), in their layouts on `device`.

        poison: the poison in the memory around them.
        """
        return self.lay_out(*self._dense, device, poison)  # every layout copies

    def values(self) -> tuple[Array, Array]:
        """Return both gates as `build` gives them, (B, NH, S), float64. Nothing may write to them."""
        return self._values

    @cached_property
    def _values(self) -> tuple[Array, Array]:
        same = {self.igate_layout, self.fgate_layout} <= set(SAME_VALUES)
        igate, fgate = (gate.double().numpy()[..., 0] for gate in (self._dense if same else self.build()))
        return igate, fgate


def special(special_values: Collection[str]) -> tuple[float, ...]:
    """Return the infinities and NaN that these names of a contract declare."""
    unknown = set(special_values) - set(SPECIAL_VALUES)
    if unknown:
        raise ValueError(f"special_values has {sorted(unknown)}; expected some of {list(SPECIAL_VALUES)}")
    return tuple(SPECIAL_VALUES[name] for name in SPECIAL_VALUES if name in special_values)


def significand_bits(dtype: str) -> int:
    """Return p, the bits of the significand: integers up to 2^p are exact in this dtype."""
    return 1 - int(np.log2(torch.finfo(getattr(torch, dtype)).eps))


def exact_units(dtype: str, accumulator: str) -> int:
    """Return the largest max |i| + sum |f| of the exact regime, in units of 64 (docs/spec.md section 4)."""
    narrower = min(significand_bits(dtype), significand_bits(accumulator))
    return min(1023, 2**narrower) if dtype == "float16" else int(2**narrower)

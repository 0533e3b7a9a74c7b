"""Which heads share a key, and which channels have a gate of their own.

A *value head* has its own v, gates and output. `group` value heads share one *key head*, which has q and k.
If gates differ by channel, the oracle of a sum treats each channel as a head of one channel: o is their sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True)
class HeadForm:
    """How value heads share key heads, and whether each of K channels has a gate.

    group, order: the fields `group` and `group_order` of a contract. channels: K, or None for a gate a head.
    """

    group: int = 1
    order: str = "consecutive"
    channels: int | None = None

    # Key heads and value heads, on axis 1

    def repeated(self, x: AnyArray) -> AnyArray:
        """Return what each value head reads of x, (B, key heads, ...), as (B, value heads, ...)."""
        if self.group == 1:
            return x
        return np.repeat(x, self.group, 1) if self.order == "consecutive" else np.tile(x, self._tiles(x))

    def _tiles(self, x: AnyArray) -> tuple[int, ...]:
        return (1, self.group, *(1,) * (x.ndim - 2))

    def ordered(self, x: AnyArray) -> AnyArray:
        """Return x, (B, group, key heads, ...), as (B, value heads, ...)."""
        B, group, heads, *rest = x.shape
        if self.order == "consecutive":
            x = np.swapaxes(x, 1, 2)
        return x.reshape(B, group * heads, *rest)

    def gathered(self, x: AnyArray, how: Callable[..., Any] = np.sum) -> AnyArray:
        """Return x, (B, value heads, ...), summed over those of a key head, or reduced by `how`."""
        return x if self.group == 1 else np.asarray(how(self._grouped(x), axis=1))

    def _grouped(self, x: AnyArray) -> AnyArray:
        B, heads, *rest = x.shape
        if self.order == "consecutive":
            return np.swapaxes(x.reshape(B, heads // self.group, self.group, *rest), 1, 2)
        return x.reshape(B, self.group, heads // self.group, *rest)

    def members(self, h: int, heads: int) -> list[int]:
        """Return the value heads that share key head h of so many key heads."""
        if self.order == "consecutive":
            return list(range(h * self.group, (h + 1) * self.group))
        return list(range(h, heads * self.group, heads))

    def key_of(self, h: int, heads: int) -> int:
        """Return the key head that value head h reads, of so many key heads."""
        return h // self.group if self.order == "consecutive" else h % heads

    # Channels as heads of one channel

    @property
    def parts(self) -> int:
        """How many heads of the oracle make one head of the kernel."""
        return self.channels or 1

    def split(self, x: AnyArray) -> AnyArray:
        """Return x, (B, NH, S, K), as (B, NH K, S, 1); as it is if a head has one gate."""
        if self.channels is None:
            return x
        B, NH, S, K = x.shape
        return np.swapaxes(x, -1, -2).reshape(B, NH * K, S, 1)

    def joined(self, x: AnyArray) -> AnyArray:
        """Return x, (B, NH K, S), or with a last axis of 1, as (B, NH, S, K); the inverse of `split`."""
        if self.channels is None:
            return x
        B, heads, S = x.shape[:3]
        return np.swapaxes(x.reshape(B, heads // self.channels, self.channels, S), -1, -2)

    def each(self, x: AnyArray) -> AnyArray:
        """Return x, (B, NH, ...), repeated for each channel, (B, NH K, ...)."""
        return x if self.channels is None else np.repeat(x, self.channels, 1)

    def total(self, x: AnyArray) -> AnyArray:
        """Return the sum of x, (B, NH K, ...), over the channels of each head, (B, NH, ...)."""
        if self.channels is None:
            return x
        B, heads, *rest = x.shape
        return np.asarray(x.reshape(B, heads // self.channels, self.channels, *rest).sum(2))


PLAIN_HEADS = HeadForm()  # one gate a head, and a key for each

"""The domain of a fused kernel in one dtype: the gates and sizes that its contract allows, or fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from dmat.strategies.choose import Draw, between, choose, seed
from dmat.strategies.domain import Domain
from dmat.strategies.drawing import distinct_heads, draw_background, edited_field, of_heads
from dmat.strategies.promised import FusedPromised, Scaling
from dmat.strategies.recipes.backgrounds import Array, Background, Constant, Normal, Within
from dmat.strategies.recipes.gates import Gates
from dmat.strategies.recipes.layouts import SAME_VALUES, draw_layout
from dmat.strategies.regimes import FUSED, GateFormat, palettes
from dmat.strategies.shapes import FEW, heads_for

LONG = 100
LONG_OF_DELTA = 40  # its bounds go from chunk to chunk, or step to step
LONG_OF_FLOAT64 = 12  # short, for in float64 every entry is judged in ball arithmetic, which is slow
MANY = ((1, 8), (2, 5))
LARGEST_STEP = 2.0**20  # the largest dt
SOME_K = (1, 4, 16)  # the sizes of q and k that are drawn where the contract states none
LARGEST_K = 256
MOST_K_OF_DELTA = 64  # of several sizes that are stated, larger ones are tried in the cases of sizes alone


@dataclass(frozen=True)
class FusedDomain(Domain):
    """The inputs that may be drawn for one fused kernel.

    dtype: the dtype of the gates. products_dtype: the dtype of q, k, v. some_K: returns the sizes of q and k
    to draw where the contract states none; None: SOME_K.
    """

    contract: FusedPromised = field(kw_only=True)
    scaling: Scaling = field(kw_only=True)
    products_dtype: str = "float32"
    some_K: Callable[[], tuple[int, ...]] | None = field(default=None, compare=False, repr=False)

    @property
    def gate_format(self) -> GateFormat:
        """The format of the gates: kind of kernel, dtype, log gates or pre-activations."""
        return GateFormat(FUSED, self.dtype, log=not self.contract.from_preact)

    @cached_property
    def least(self) -> float:
        """The smallest forget gate of a recipe that the contract and the dtype allow."""
        largest = float(torch.finfo(getattr(torch, self.dtype)).max)
        weighted = self.contract.gate == "dt" and self.contract.weight is not None
        if (
            self.contract.of_gates or weighted
        ):  # times exp(A_log), and a float64 softplus is often y itself from 20 on
            sums = float(torch.finfo(getattr(torch, self.accumulator)).max) / 2**10
            largest = 16.0 if self.accumulator == "float64" else min(largest, LARGEST_STEP, sums)
        return -largest if self.contract.l_min is None else max(self.contract.l_min, -largest)

    @cached_property
    def most(self) -> float:
        """The largest forget gate: 0 for log gates, the largest number of the dtype for pre-activations."""
        return float(torch.finfo(getattr(torch, self.dtype)).max) if self.contract.from_preact else 0.0

    # Sizes

    @property
    def stated_K(self) -> tuple[int, ...]:
        """The sizes of q and k that the contract states; SOME_K if it states none."""
        K = self.contract.K
        if isinstance(K, int):
            return (K, 4 * K) if 4 * K <= 64 else (K,)
        return SOME_K if K is None else K

    @property
    def usual_K(self) -> tuple[int, ...]:
        """The sizes of q and k that are drawn; of a kernel that refuses some, `scales` has the others."""
        few = tuple(K for K in self.stated_K if K <= MOST_K_OF_DELTA) if self.scaling.erases else ()
        return few or self.stated_K

    @cached_property
    def scales(self) -> tuple[tuple[int, float], ...]:
        """(K, the factor of q.k) for each size K of q and k that is drawn."""
        sizes = self.usual_K
        if self.contract.K is None and self.some_K is not None:
            sizes = self.some_K()
        return tuple((size, self.contract.scale_of(size)) for size in sizes)

    def scale_of(self, K: int) -> float:
        """Return the factor of q.k for this K."""
        return self.contract.scale_of(K)

    def key_sizes(self, S: int) -> list[int]:
        """Return the sizes K of q and k that are tried for this S."""
        sizes = [K for K, _ in self.scales]
        enough = [K for K in sizes if K >= S]
        if self.contract.V_equals_K and isinstance(self.contract.V, int):
            return enough[:1] or sizes[-1:]
        return sizes

    def has_key_size(self, K: int, S: int, kind: str) -> bool:
        """Whether q and k of this kind may have this size. Any size may be, if the contract states no K.

        Integers need a scale that is a power of two, and one-hot recipes whose v has the size of k enough
        columns: they have sizes that are drawn.
        """
        stated = 0 < K <= LARGEST_K if self.contract.K is None else K in self.stated_K
        free = kind == "dense" or (kind == "one-hot" and not self.contract.V_equals_K)
        return (free and stated) or K in self.key_sizes(S)

    def value_size(self, wanted: int, K: int) -> int:
        """Return the smallest allowed size of v that is at least `wanted`, else the largest.

        Return K if the contract has V_equals_K.
        """
        if self.contract.V_equals_K:
            return K
        V = self.contract.V
        if isinstance(V, int):
            return -(-max(wanted, 1) // V) * V
        return next((size for size in sorted(V) if size >= wanted), max(V))

    def has_value_size(self, V: int) -> bool:
        """Whether the contract allows this size of v."""
        own = self.contract.V
        return V % own == 0 if isinstance(own, int) else V in own

    @cached_property
    def all_lengths(self) -> tuple[int, ...]:
        """The lengths S >= 1 that are allowed and tried, shortest first."""
        long = LONG_OF_DELTA if self.scaling.erases else LONG
        past_chunks = max(long, 4 * (self.contract.chunk or 0) + 2)
        longest = LONG_OF_FLOAT64 if self.accumulator == "float64" else past_chunks
        longest = min(longest, self.max_seq or longest)
        if (only := self.contract.lengths) is not None:
            return tuple(S for S in only if S <= max(longest, only[0])) or only[:1]
        step = self.seq_multiple_of
        first = -(-max(self.contract.min_seq, 1) // step) * step
        return tuple(range(first, max(longest, first) + 1, step))

    def has_length(self, S: int) -> bool:
        """Whether the contract allows this length."""
        if S == 0:
            return self.zero_length
        if self.contract.lengths is not None:
            return S in self.contract.lengths
        return super().has_length(S) and S >= self.contract.min_seq

    def shortest(self, number: int) -> list[int]:
        """Return the shortest of all_lengths, `number` of them."""
        return list(self.all_lengths[:number])

    def past_chunks(self) -> list[int]:
        """Return one length beyond three chunks, or beyond a block of 16: a lost carry shows only there.

        A slow domain has one beyond two chunks.
        """
        chunks = 2 if self.slow else 3
        wanted = chunks * self.contract.chunk + 1 if self.contract.chunk else 19
        lengths = self.all_lengths
        return [next((S for S in lengths if wanted <= S), lengths[-1])]

    # Drawing

    def draw_shape(self, draw: Draw, *, zero: bool = True) -> tuple[int, int, int]:
        """Draw (B, NH, S): short ones first, then around the edges of chunks."""
        if zero and self.zero_length and between(draw, 0, 29) == 29:
            return (*choose(draw, FEW), 0)
        S = choose(draw, self.kinds_of_length[choose(draw, ("short", "middle", "edge", "any"))])
        many = S <= 24 and not self.slow and between(draw, 0, 19) == 19
        return (*choose(draw, MANY if many else heads_for(S, slow=self.slow)), S)

    @cached_property
    def kinds_of_length(self) -> dict[str, tuple[int, ...]]:
        """The allowed lengths by class: short, middle, near multiples of the chunk size, any."""
        lengths = self.all_lengths
        return {
            "short": tuple(S for S in lengths if S <= 5) or lengths[:2],
            "middle": tuple(S for S in lengths if 5 < S <= 24) or lengths,
            "edge": tuple(S for S in lengths if self._at_edge(S)) or lengths,
            "any": lengths,
        }

    def _at_edge(self, S: int) -> bool:
        block = self.contract.chunk or 16
        return S > 5 and min(S % block, -S % block) <= 1

    def draw_gates(self, draw: Draw, *, zero: bool = True, expanded: bool = True) -> Gates:
        """Draw gates of any regime that the contract allows. A gate that the kernel does not take is 0."""
        return self.draw_gates_of(draw, self.draw_shape(draw, zero=zero))

    def draw_gates_of(self, draw: Draw, shape: tuple[int, int, int]) -> Gates:
        """Draw gates of this shape."""
        igates, fgates = distinct_heads(draw, shape)
        igate: Background = Constant(0.0)
        fgate: Background = Constant(0.0)
        if self.contract.igate:
            igate = of_heads(lambda one: self._igate(draw, one), shape, igates)
        if self.contract.gate != "fixed":
            fgate = of_heads(lambda one: self._fgate(draw, one), shape, fgates)
        layouts = tuple(SAME_VALUES) if self.contract.strided else ("contiguous",)
        own = draw_layout(draw, layouts) if self.contract.gate != "fixed" else "contiguous"
        other = draw_layout(draw, layouts) if self.contract.igate else own
        return Gates(self.dtype, shape, igate, fgate, other, own)

    def _fgate(self, draw: Draw, shape: tuple[int, int, int]) -> Background:
        own = self.fgate_palettes
        if between(draw, 0, 9) < 7:
            background = draw_background(draw, choose(draw, own))
        else:
            scale, mean = choose(draw, (0.1, 1.0, 8.0)), choose(draw, (0.0, -1.0, -3.0, -20.0))
            background = Within(Normal(seed(draw), scale, mean), self.least, self.most)
        return edited_field(draw, background, shape, own)

    @cached_property
    def fgate_palettes(self) -> list[tuple[float, ...]]:
        """The palettes of the forget gate, cut to its allowed range."""
        every = [*palettes(self.gate_format), *self._at_limits]
        allowed = [tuple(x for x in palette if self.least <= x <= self.most) for palette in every]
        return [palette for palette in allowed if palette]

    @property
    def _at_limits(self) -> list[tuple[float, ...]]:
        """The palettes of gates whose dt is at an end of its limit, one step beside, and a 64th beside."""
        limit, found = self.contract.dt_limit, []
        eps = float(torch.finfo(getattr(torch, self.dtype)).eps)
        for end in (x for x in limit or () if 0 < x < np.inf):
            at = (
                float(end + np.log(-np.expm1(-end))) if self.contract.dt_softplus else end
            )  # softplus(at) = end
            near = tuple(-at * (1 + x) for x in (0.0, eps, -eps, 1 / 64, -1 / 64, 4 * eps, -4 * eps))
            found.append((*near, -2 * at, -at / 2))
        return found

    def _igate(self, draw: Draw, shape: tuple[int, int, int]) -> Background:
        low, high = self.contract.i_range
        values = (0.0, 1.0, -1.0, low, high, low / 2, high / 2, 0.125, -0.5)
        within = [tuple(x for x in values if low <= x <= high)]
        if between(draw, 0, 9) < 7:
            background = draw_background(draw, within[0])
        else:
            background = Within(Normal(seed(draw), choose(draw, (1.0, 4.0)), 0.0), low, high)
        return edited_field(draw, background, shape, within)

    # Membership

    def has_gates(self, gates: Gates, K: int = 1) -> bool:
        """Whether the contract allows these gates: their dtype, shape, layouts and values.

        K: the size of q and k, if it may be a larger one than those that are drawn.
        """
        if gates.dtype != self.dtype or not self.has_length(gates.shape[-1]):
            return False
        if 0 in gates.shape and not self.zero_length:
            return False
        layouts = set(SAME_VALUES) if self.contract.strided else {"contiguous"}
        if not {gates.igate_layout, gates.fgate_layout} <= layouts:
            return False
        channels = self.contract.group * K if self.contract.by_channel else 1
        return self.has_values(*gates.wider(max(self.width, channels)).values())

    @cached_property
    def width(self) -> int:
        """How many sequences of gates a head has at most: those of its value heads and channels."""
        channels = max(K for K, _ in self.scales) if self.contract.by_channel else 1
        return self.contract.group * channels

    def has_values(self, igate: Array, fgate: Array) -> bool:
        """Whether the values lie in their ranges, and no sum of log gates can overflow."""
        if igate.size == 0:
            return True
        low, high = self.contract.i_range if self.contract.igate else (0.0, 0.0)
        least, most = (self.least, self.most) if self.contract.gate != "fixed" else (0.0, 0.0)
        smallest = float(fgate.min())
        inside_i = low * self._spare <= igate.min() and igate.max() <= high * self._spare
        if not (inside_i and least * self._spare <= smallest and fgate.max() <= most):
            return False
        if fgate.shape[-1] * (max(-smallest, 0.0) + 1) < self.largest_sum:  # -log sigmoid(f) < max(-f, 0) + 1
            return True
        with np.errstate(over="ignore", invalid="ignore"):
            logs = np.logaddexp(0.0, -fgate) if self.contract.from_preact else -fgate  # -l
            return bool(logs.sum(-1).max() < self.largest_sum)

    @cached_property
    def _spare(self) -> float:
        """The factor by which a gate at an end may lie outside its range: it was rounded to the dtype."""
        return 1 + float(torch.finfo(getattr(torch, self.dtype)).eps)

    @cached_property
    def largest_sum(self) -> float:
        """The largest magnitude that the sum of a sequence's log gates may have.

        A result need not be finite if 2 M reaches the largest number of the format (docs/spec.md section 3).
        M of a prefix is up to twice the sum, so the limit is a quarter of that number.
        """
        narrow: Sequence[str] = (self.accumulator, self.dtype)
        return min(float(torch.finfo(getattr(torch, name)).max) for name in narrow) / 4

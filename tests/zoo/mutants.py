"""Mutants of D~. Each names the law that must reject it, and the bug that it restates.

Each mutant is right code with one change: in the log gate, the window sums, the gradient, or elsewhere. All
have the strictest contract; mutants that are wrong under a transform also claim that transform.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad, relu, softplus

from dmat.testing import implementation

from .sound import (
    Dtilde,
    Gradient,
    any_order,
    causal,
    chunked,
    cumulative_sum_difference,
    dress,
    forget_gradient,
    gradient,
    input_gradient,
    log_decays,
    mask_added,
    rectangle_sum,
    tangent,
    times,
    triangular_product,
    widen,
    window_sums,
    with_gradient,
    with_tangent,
)
from .sound import masked_cumulative_sum as right


@dataclass(frozen=True)
class Mutant:
    """A wrong implementation, the law that must reject it, and the published bug it restates.

    device: the device on which it is wrong.
    """

    name: str
    implementation: Dtilde
    law: str
    museum: str
    device: str = "cpu"


MUTANTS: list[Mutant] = []
C = 16  # the chunk of those that work in chunks


def _add(name: str, dtilde: Dtilde, law: str, museum: str, device: str = "cpu", **contract: Any) -> None:
    MUTANTS.append(Mutant(name, implementation(**contract)(dtilde), law, museum, device))


def mutant(law: str, museum: str, device: str = "cpu", **contract: Any) -> Callable[[Dtilde], Dtilde]:
    """Register a whole function (igate_preact, fgate_preact) -> D~; its contract, where it needs one."""

    def register(dtilde: Dtilde) -> Dtilde:
        _add(dtilde.__name__, dtilde, law, museum, device, **contract)
        return dtilde

    return register


Log = Callable[[Tensor], Tensor]


def log_gate_mutant(law: str, museum: str) -> Callable[[Log], Log]:
    """Register a log gate f -> l, (B, NH, S) in the accumulator's format."""

    def register(log_gate: Log) -> Log:
        def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
            return dress(window_sums(log_gate(widen(fgate_preact).squeeze(-1))), igate_preact)

        dtilde.__name__, dtilde.__doc__ = log_gate.__name__, log_gate.__doc__
        _add(log_gate.__name__, dtilde, law, museum)
        return log_gate

    return register


def window_mutant(law: str, museum: str) -> Callable[[Log], Log]:
    """Register window sums l -> (B, NH, S, S)."""

    def register(windows: Log) -> Log:
        def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
            return dress(windows(log_decays(fgate_preact)), igate_preact)

        dtilde.__name__, dtilde.__doc__ = windows.__name__, windows.__doc__
        _add(windows.__name__, dtilde, law, museum)
        return windows

    return register


def gradient_mutant(law: str, museum: str) -> Callable[[Gradient], Gradient]:
    """Register a gradient (G, igate_preact, fgate_preact) -> (di, df) behind a right forward."""

    def register(wrong: Gradient) -> Gradient:
        dtilde = with_gradient(right, wrong)
        dtilde.__name__, dtilde.__doc__ = wrong.__name__, wrong.__doc__
        _add(wrong.__name__, dtilde, law, museum)
        return wrong

    return register


def _tile(x: Tensor) -> Tensor:
    """Return the number of chunks from column s to row t, (S, S)."""
    return times(x).unsqueeze(-1) // C - times(x) // C


def _tail(x: Tensor) -> Tensor:
    """Return the mask of times in a partial last chunk after at least one whole chunk, (S,)."""
    S = x.shape[-1]
    return (times(x) >= S // C * C) & (S > C)


def _slope(fgate_preact: Tensor) -> Tensor:
    return torch.sigmoid(-widen(fgate_preact))


def _forget(rectangle: Tensor, slope: Tensor, fgate_preact: Tensor) -> Tensor:
    return (rectangle.unsqueeze(-1) * slope).to(fgate_preact.dtype)


# Ragged lengths, chunks and carries.


@window_mutant("exact", "ragged tail: gates past the last whole chunk dropped")
def tail_gates_dropped(log_f: Tensor) -> Tensor:
    return window_sums(torch.where(_tail(log_f), 0.0, log_f))


@gradient_mutant("forget_gradient", "gradient of the last forget gates dropped, S no multiple of C")
def tail_gradient_dropped(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), torch.where(_tail(G).unsqueeze(-1), 0.0, forget_gradient(G, f))


@window_mutant("values", "tail reads 0 for the gate: exp(0 - large negative) = inf, times 0 = NaN")
def tail_reads_zero(log_f: Tensor) -> Tensor:
    overflow = torch.where(_tail(log_f), torch.exp(-log_f.cumsum(-1)), 0.0) * 0
    return window_sums(log_f) + overflow.unsqueeze(-1)


def _since_chunk_start(log_f: Tensor) -> Tensor:
    """Return the sum from the start of t's chunk up to t, (B, NH, S, 1)."""
    return chunked(log_f, C).cumsum(-1).flatten(-2)[..., : log_f.shape[-1], None]


@window_mutant("exact", "carry between tiles forgotten")
def carry_forgotten(log_f: Tensor) -> Tensor:
    return torch.where(_tile(log_f) > 0, _since_chunk_start(log_f), window_sums(log_f))


@window_mutant("exact", "only near tiles right: third tile on wrong")
def two_tiles_only(log_f: Tensor) -> Tensor:
    return torch.where(_tile(log_f) > 1, _since_chunk_start(log_f), window_sums(log_f))


@window_mutant("values", "the fix for an overflow drops an exp: the logarithm used as the factor")
def decay_for_its_log(log_f: Tensor) -> Tensor:
    return torch.where(_tile(log_f) > 0, window_sums(log_f).exp(), window_sums(log_f))


@gradient_mutant("gradient_exact", "partial buffer overwritten by a later block")
def later_block_overwrites(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """The column sum keeps the last block of rows alone."""
    rows = times(G) // C == (G.shape[-1] - 1) // C
    last = torch.where(rows.unsqueeze(-1) | (_tile(G) == 0), G, 0.0)
    return input_gradient(last, i), forget_gradient(G, f)


@mutant("uninitialised_unread", "padding made of uninitialised memory")
def padding_uninitialised(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A ragged last row reads one gate of the padding."""
    padding = torch.empty_like(fgate_preact[..., :1, :])
    ragged = times(fgate_preact.mT) == fgate_preact.shape[-2] - 1
    read = torch.where(ragged & (len(ragged) % C > 0), log_decays(padding), 0.0)
    return dress(window_sums(log_decays(fgate_preact)) + read.unsqueeze(-1), igate_preact)


@mutant("surroundings_unread", "out-of-bounds read past the last gate")
def read_past_the_end(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The last row adds the gate that lies behind the view, if one does."""
    strides = zip(fgate_preact.shape, fgate_preact.stride(), strict=True)
    behind = fgate_preact.storage_offset() + sum((n - 1) * step for n, step in strides) + 1
    dtilde = right(igate_preact, fgate_preact)
    if behind * fgate_preact.element_size() >= fgate_preact.untyped_storage().nbytes():
        return dtilde
    stray = logsigmoid(widen(fgate_preact.detach().as_strided((), (), behind)))
    last = times(dtilde) == dtilde.shape[-1] - 1
    return torch.where(last.unsqueeze(-1), widen(dtilde) + stray, widen(dtilde)).to(dtilde.dtype)


# Masks.


@gradient_mutant("gradient_finite", "upper triangle exponentiated before it is masked: NaN gradient")
def exponentiated_before_mask(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Masked cotangents, 0, meet exp of a positive sum."""
    total = log_decays(f).cumsum(-1)
    future = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(causal(G), 0.0)
    stray = (0 * future.exp()).sum((-1, -2)).unsqueeze(-1).unsqueeze(-1)
    return input_gradient(G, i), forget_gradient(G, f) + stray.to(f.dtype)


@window_mutant("open_gates", "strict < 0 mask kills gates that are exactly open")
def strict_mask(log_f: Tensor) -> Tensor:
    windows = window_sums(log_f)
    below = causal(log_f, -1)
    return windows.masked_fill(below & ~(windows < 0) & ~windows.isnan(), -torch.inf)


@mutant("future", "mask made of -1e30")
def mask_of_1e30(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return torch.where(causal(dtilde), widen(dtilde), -1e30).to(dtilde.dtype)


@mutant("future", "mask made of -1e9")
def mask_of_1e9(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return torch.where(causal(dtilde), widen(dtilde), -1e9).to(dtilde.dtype)


@mutant("future", "mask made of finfo.min")
def mask_of_finfo_min(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return dtilde.masked_fill(~causal(dtilde), torch.finfo(dtilde.dtype).min)


@mutant("future", "mask added instead of selected")
def mask_added_to_specials(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """i = +inf plus a mask of -inf is NaN in the rows before."""
    mask = torch.where(causal(igate_preact.mT[0, 0, 0]), 0.0, -torch.inf) if igate_preact.numel() else 0
    dtilde = window_sums(log_decays(fgate_preact)) + widen(igate_preact).mT + mask
    return dtilde.to(igate_preact.dtype)


@mutant("masked_cotangent", "mask added instead of selected: the notebook's, undeclared")
def masked_cotangents_summed(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return mask_added(igate_preact, fgate_preact)


@gradient_mutant("masked_cotangent", "mask multiplied: NaN times 0")
def masked_by_product(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    di = (widen(G) * causal(G)).sum(-2).unsqueeze(-1).to(i.dtype)
    return di, forget_gradient(G, f)


@mutant("future", "the future leaks through a limit: 1 ** inf = 1")
def one_to_the_infinity(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    leak = torch.log(torch.sigmoid(fgate_preact.detach()).pow(torch.inf)).mT
    return torch.where(causal(dtilde), dtilde, leak)


@mutant("future", "transposed output")
def transposed(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact, fgate_preact).mT


# The log gate.


@log_gate_mutant("values", "a log forgotten: the gate summed for its logarithm")
def log_forgotten(f: Tensor) -> Tensor:
    return torch.sigmoid(f)


@log_gate_mutant("values", "typo in the branch beyond softplus' threshold of 20")
def softplus_typo(f: Tensor) -> Tensor:
    return torch.where(f > 20, -f, -softplus(-f, threshold=40))


@gradient_mutant("forget_gradient", "typo in the branch beyond softplus' threshold, in the gradient")
def softplus_typo_in_gradient(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.where(widen(f) > 20, 1.0, _slope(f))
    return input_gradient(G, i), _forget(rectangle_sum(widen(G)), slope, f)


@log_gate_mutant("values", "-softplus(-x) with torch's threshold of 20, float64")
def softplus_threshold(f: Tensor) -> Tensor:
    return -softplus(-f)


@log_gate_mutant("values", "log(1 + exp(x)) overflows")
def exp_overflows(f: Tensor) -> Tensor:
    return torch.where(f > 0, logsigmoid(f), -torch.log(1 + torch.exp(-f)))


@log_gate_mutant("values", "log(1 + exp(x)) guarded, but relatively wrong for open gates")
def log_of_one_plus(f: Tensor) -> Tensor:
    return torch.where(f < -40, f, -torch.log(1 + torch.exp(-f.clamp(min=-40))))


@log_gate_mutant("gradient_finite", "log(sigmoid(x)) with where: NaN from the branch not taken")
def where_not_taken(f: Tensor) -> Tensor:
    return torch.where(f >= 0, -torch.log1p(torch.exp(-f)), f - torch.log1p(torch.exp(f)))


@log_gate_mutant("values", "epsilon inside the log")
def epsilon_in_log(f: Tensor) -> Tensor:
    return torch.log(torch.sigmoid(f) + 1e-6)


@log_gate_mutant("exact", "log gate clamped at -20")
def log_gate_clamped(f: Tensor) -> Tensor:
    return logsigmoid(f).clamp(min=-20)


@log_gate_mutant("values", "gate clamped at -80")
def gate_clamped(f: Tensor) -> Tensor:
    return logsigmoid(f.clamp(min=-80))


@log_gate_mutant("values", "forget gate path in bfloat16")
def gate_path_in_bfloat16(f: Tensor) -> Tensor:
    return logsigmoid(f).bfloat16().to(f.dtype)


@log_gate_mutant("values", "decay narrowed to bfloat16: 0.9985 becomes 1")
def decay_in_bfloat16(f: Tensor) -> Tensor:
    narrow = torch.sigmoid(f).bfloat16().to(f.dtype)
    return torch.where(f > 0, narrow.log(), logsigmoid(f))


@log_gate_mutant("open_gates", "f - softplus(f): inf - inf at an open gate")
def infinity_less_infinity(f: Tensor) -> Tensor:
    return f - torch.logaddexp(torch.zeros_like(f), f)


@log_gate_mutant("closed_gates", "reset leaks: -inf replaced by a large number")
def reset_leaks(f: Tensor) -> Tensor:
    return logsigmoid(f).clamp(min=-1e30)


@log_gate_mutant("forget_gradient", "wrong derivative at a gate of exactly 0: clamp")
def clamp_at_zero(f: Tensor) -> Tensor:
    return f.clamp(max=0) - torch.log1p(torch.exp(-f.abs()))


@log_gate_mutant("forget_gradient", "wrong derivative at a gate of exactly 0: relu")
def relu_at_zero(f: Tensor) -> Tensor:
    return -relu(-f) - torch.log1p(torch.exp(-f.abs()))


# Windows and indices.


@mutant("values", "difference of cumulative sums, undeclared")
def undeclared_difference(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return cumulative_sum_difference(igate_preact, fgate_preact)


@mutant("closed_gates", "difference of cumulative sums: -inf - -inf after a reset")
def difference_after_reset(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return cumulative_sum_difference(igate_preact, fgate_preact)


@mutant("locality", "difference of cumulative sums: bits depend on gates before the window")
def difference_reads_the_past(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return cumulative_sum_difference(igate_preact, fgate_preact)


@window_mutant("values", "reverse cumulative sum as total - cumsum + x")
def total_less_cumsum(log_f: Tensor) -> Tensor:
    """Along each row, from t back to s + 1."""
    masked = torch.where(causal(log_f), log_f.unsqueeze(-2), 0.0)
    after = masked.sum(-1, keepdim=True) - masked.cumsum(-1) + masked
    return pad(after, (0, 1))[..., 1:]


@window_mutant("exact", "exclusive cumulative sum off by one row: gates s .. t-1")
def window_one_early(log_f: Tensor) -> Tensor:
    return window_sums(pad(log_f, (1, 0))[..., :-1])


@window_mutant("exact", "exclusive cumulative sum off by one row: gates s+2 .. t+1")
def window_one_late(log_f: Tensor) -> Tensor:
    return window_sums(pad(log_f, (0, 1))[..., 1:])


@window_mutant("exact", "window without its last gate: s+1 .. t-1")
def window_without_last(log_f: Tensor) -> Tensor:
    return pad(window_sums(log_f), (0, 0, 1, 0))[..., :-1, :]


@window_mutant("diagonal", "window with the gate of its own column: s .. t")
def window_with_own_gate(log_f: Tensor) -> Tensor:
    return torch.where(causal(log_f), log_f.unsqueeze(-1), 0.0).cumsum(-2)


@window_mutant("first_forget_gate", "window of the first column holds the first gate")
def first_gate_read(log_f: Tensor) -> Tensor:
    first = causal(log_f, -1) & (times(log_f) == 0)
    return window_sums(log_f) + torch.where(first, log_f[..., :1, None], 0.0)


@mutant("exact", "input gate of the row for that of the column")
def input_gate_of_row(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = window_sums(log_decays(fgate_preact)) + widen(igate_preact)
    return dtilde.masked_fill(~causal(dtilde), -torch.inf).to(igate_preact.dtype)


@mutant("diagonal", "diagonal reads the forget gate")
def forget_gate_on_diagonal(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    eye = causal(dtilde) & causal(dtilde).mT
    return torch.where(eye, fgate_preact.mT, dtilde)


@mutant("exact", "igate and fgate swapped")
def gates_swapped(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(fgate_preact, igate_preact)


@window_mutant("closed_gates", "a reset closes its own column too")
def reset_closes_its_column(log_f: Tensor) -> Tensor:
    return window_sums(log_f).masked_fill((log_f == -torch.inf).unsqueeze(-2), -torch.inf)


@mutant("closed_input_gate", "closed input gate clamped to a large number")
def input_gate_clamped(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact.clamp(min=torch.finfo(igate_preact.dtype).min), fgate_preact)


@mutant("nan_containment", "product with the mask: 0 times NaN")
def nan_through_product(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return triangular_product(igate_preact, fgate_preact)


@mutant("nan_containment", "NaN swept away")
def nan_to_zero(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return torch.where(dtilde.isnan(), 0.0, dtilde)


@mutant("nan_containment", "one NaN gate, all NaN")
def nan_everywhere(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return dtilde.masked_fill(causal(dtilde) & fgate_preact.isnan().any(), torch.nan)


@window_mutant("causality", "rounding anchored on a future row")
def anchored_on_last_row(log_f: Tensor) -> Tensor:
    windows = window_sums(log_f)
    anchor = windows[..., -1:, :].detach()
    anchor = torch.where(anchor.isfinite(), anchor, 0.0)
    return (windows - anchor) + anchor


@mutant("values", "wrong stabiliser: the row maximum taken off and put back")
def shifted_by_row_maximum(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = widen(right(igate_preact, fgate_preact))
    shift = dtilde.detach().nan_to_num(0.0, 0.0, 0.0).abs().sum(-1, keepdim=True)
    return ((dtilde - shift) + shift).to(igate_preact.dtype)


@window_mutant("composition", "long windows saturate at -50")
def windows_saturate(log_f: Tensor) -> Tensor:
    windows = window_sums(log_f)
    return torch.where(windows > -torch.inf, windows.clamp(min=-50), windows)


@window_mutant("slices", "result depends on the length: even S takes another path")
def even_lengths_differ(log_f: Tensor) -> Tensor:
    return window_sums(log_f) * (1 + 2**-10 if log_f.shape[-1] % 2 == 0 else 1)


@window_mutant("exact", "wrong for one size only: S = 129")
def wrong_at_129(log_f: Tensor) -> Tensor:
    return window_sums(torch.where(times(log_f) == 128, 0.0, log_f) if log_f.shape[-1] == 129 else log_f)


# Batches, heads, strides.


@mutant("independence", "another head's gates read")
def next_head(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact, fgate_preact.roll(1, 1))


@mutant("independence", "batch index ignored")
def first_batch(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact, fgate_preact[:1].expand_as(fgate_preact))


@mutant("independence", "batch and head strides exchanged")
def batch_for_head(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    B, NH, S, _ = fgate_preact.shape
    return right(igate_preact, fgate_preact.reshape(NH, B, S, 1).transpose(0, 1))


@mutant("independence", "wrong for one size only: NH = 3 takes the first head's gates last")
def wrong_at_three_heads(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    heads = [0, 1, 0] if fgate_preact.shape[1] == 3 else slice(None)
    return right(igate_preact, fgate_preact[:, heads])


def _in_storage_order(x: Tensor) -> Tensor:
    """Return x as read by a kernel that assumes contiguous strides; x itself if the storage is too short."""
    end = (x.storage_offset() + x.numel()) * x.element_size()
    if end > x.untyped_storage().nbytes():
        return x
    contiguous = torch.empty(x.shape, device="meta").stride()
    return x.as_strided(x.shape, contiguous)


@mutant("exact", "strides ignored")
def strides_ignored(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(_in_storage_order(igate_preact), _in_storage_order(fgate_preact))


@gradient_mutant("forget_gradient", "strides ignored, of the cotangent")
def cotangent_strides_ignored(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return gradient(_in_storage_order(G), i, f)


@gradient_mutant("forget_gradient", "zero-stride cotangent mishandled")
def zero_stride_read_once(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    once = 0 in G.stride()[-2:] and G.shape[-1] > 1
    return gradient(G * (times(G).unsqueeze(-1) == G.shape[-1] - 1) if once else G, i, f)


# Formats.


@mutant("values", "float64 inputs computed in float32")
def float64_in_float32(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact.float(), fgate_preact.float()).to(igate_preact.dtype)


@gradient_mutant("forget_gradient", "float64 inputs computed in float32, in the gradient")
def float64_gradient_in_float32(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rectangle = rectangle_sum(widen(G)).float().to(widen(G).dtype)
    return input_gradient(G, i), _forget(rectangle, _slope(f), f)


@mutant("half_precision", "half precision accumulated in its own format")
def half_sums(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = window_sums(logsigmoid(fgate_preact.squeeze(-1))) + igate_preact.mT
    return dtilde.masked_fill(~causal(dtilde), -torch.inf)


@mutant("half_precision", "float16 intermediate overflows at 65504")
def intermediate_overflows(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    windows = window_sums(log_decays(fgate_preact)).to(fgate_preact.dtype)
    return dress(widen(windows), igate_preact)


@gradient_mutant("input_gradient", "half precision accumulated in its own format, in the gradient")
def half_gradient(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rows, total = torch.where(causal(G), G, 0.0), torch.zeros_like(i.mT)
    for t in range(G.shape[-1]):
        total = total + rows[..., t : t + 1, :]
    return total.mT, forget_gradient(G, f)


@mutant("values", "bfloat16 stores by truncation")
def bfloat16_truncated(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    if igate_preact.dtype != torch.bfloat16:
        return right(igate_preact, fgate_preact)
    dtilde = right(igate_preact.float(), fgate_preact.float())
    kept = (dtilde.detach().view(torch.int32) & -65536).view(torch.float32)
    return torch.where(dtilde.isfinite(), dtilde + (kept - dtilde.detach()), dtilde).bfloat16()


@mutant("output_shape", "dtype returned is the accumulator's")
def accumulator_returned(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(widen(igate_preact), widen(fgate_preact))


@mutant("output_shape", "zero-length sequence: crash")
def zero_length_crash(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    if not igate_preact.shape[-2]:
        raise RuntimeError("invalid configuration argument")
    return right(igate_preact, fgate_preact)


# Gradients.


@gradient_mutant("forget_gradient", "sign of one gate in a gradient")
def sign_of_last_gate(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    last = times(G).unsqueeze(-1) == G.shape[-1] - 1
    df = forget_gradient(G, f)
    return input_gradient(G, i), torch.where(last, -df, df)


@gradient_mutant("gradient_exact", "gradient summed over all batches and heads")
def summed_over_heads(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    everywhere = rectangle_sum(widen(G)).sum((0, 1), keepdim=True)
    return input_gradient(G, i), _forget(everywhere, _slope(f), f)


@gradient_mutant("gradient_autograd", "another head's gates read in the gradient")
def slope_of_next_head(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), forget_gradient(G, f.roll(1, 1))


@gradient_mutant("gradient_exact", "exclusive cumulative sum off by one row: t > k in the gradient")
def row_of_gate_dropped(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rows = pad(widen(G), (1, 0))[..., :-1].cumsum(-1)
    return input_gradient(G, i), _forget(torch.where(causal(G, -1), rows, 0.0).sum(-2), _slope(f), f)


@gradient_mutant("first_forget_gradient", "diagonal in the rectangle: s <= k")
def diagonal_in_rectangle(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rows = widen(G).cumsum(-1)
    return input_gradient(G, i), _forget(torch.where(causal(G), rows, 0.0).sum(-2), _slope(f), f)


@gradient_mutant("first_forget_gradient", "first forget gate gets a small gradient")
def first_gradient_small(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    first = times(G).unsqueeze(-1) == 0
    stray = 2**-10 * input_gradient(G, i)  # a power of two that no half type loses
    return input_gradient(G, i), torch.where(first, stray, forget_gradient(G, f))


@gradient_mutant("gradient_locality", "difference of cumulative sums in the gradient, undeclared")
def gradient_by_difference(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    causal_G = torch.where(causal(G), widen(G), 0.0)
    rectangle = (causal_G.sum(-1) - causal_G.sum(-2)).flip(-1).cumsum(-1).flip(-1)
    return input_gradient(G, i), _forget(rectangle, _slope(f), f)


@gradient_mutant("forget_gradient", "reverse cumulative sum as total - cumsum + x, in the gradient")
def gradient_total_less_cumsum(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    columns = torch.where(causal(G), widen(G), 0.0)
    below = columns.sum(-2, keepdim=True) - columns.cumsum(-2) + columns  # (k, s): rows t >= k
    rectangle = torch.where(causal(G, -1), below, 0.0).sum(-1)
    return input_gradient(G, i), _forget(rectangle, _slope(f), f)


@gradient_mutant("forget_gradient", "derivative of the gate forgotten")
def slope_forgotten(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), _forget(rectangle_sum(widen(G)), torch.ones_like(widen(f)), f)


@gradient_mutant("gradient_exact", "derivative of the gate with the wrong sign: sigmoid(f)")
def slope_of_plus(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), forget_gradient(G, -f)


@gradient_mutant("forget_gradient", "derivative of the gate as 1 - sigmoid(f), undeclared")
def slope_by_difference(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    slope = 1 - torch.sigmoid(widen(f))
    return input_gradient(G, i), _forget(rectangle_sum(widen(G)), slope, f)


@gradient_mutant("input_gradient", "input gradient without the diagonal")
def diagonal_dropped(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(torch.where(causal(G, -1), G, 0.0), i), forget_gradient(G, f)


@gradient_mutant("gradient_exact", "input gradient sums the row for the column")
def row_for_column(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.where(causal(G), widen(G), 0.0).sum(-1).unsqueeze(-1)
    return rows.to(i.dtype), forget_gradient(G, f)


@gradient_mutant("masked_cotangent", "input gradient reads masked cotangents")
def masked_cotangents_read(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return widen(G).sum(-2).unsqueeze(-1).to(i.dtype), forget_gradient(G, f)


@gradient_mutant("forget_gradient", "values near tolerance pass: df times 1.0001")
def slightly_too_large(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), _forget(rectangle_sum(widen(G)), 1.0001 * _slope(f), f)


@gradient_mutant("input_gradient", "values near tolerance pass: gradients under 0.3 are zero")
def small_gradients_zero(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    di = input_gradient(G, i)
    return torch.where(di.abs() < 0.3, 0.0, di), forget_gradient(G, f)


@gradient_mutant("scaling", "cotangent clipped")
def cotangent_clipped(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return gradient(G.clamp(-64, 64), i, f)


@mutant("forget_gradient", "gate detached: no gradient at all")
def gate_detached(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact, fgate_preact.detach())


@gradient_mutant("gradient_shape", "gradient without the last axis")
def last_axis_lost(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), forget_gradient(G, f).squeeze(-1)


# Conduct.


@mutant("one_sided", "gradient wrong when the forget gate needs none")
def only_input_gate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    if igate_preact.requires_grad and not fgate_preact.requires_grad:
        return right(igate_preact.detach(), fgate_preact) + 0 * igate_preact.nan_to_num(0, 0, 0).sum()
    return right(igate_preact, fgate_preact)


@mutant("one_sided", "gradient wrong when the input gate needs none")
def only_forget_gate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    def transposed(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        return input_gradient(G, i), forget_gradient(G.mT, f)

    one = fgate_preact.requires_grad and not igate_preact.requires_grad
    return (with_gradient(right, transposed) if one else right)(igate_preact, fgate_preact)


@gradient_mutant("repeatable", "atomic additions: gradient differs from run to run")
def atomic_additions(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    rows, total = torch.where(causal(G), widen(G), 0.0), torch.zeros_like(widen(i).mT)
    for t in torch.randperm(G.shape[-1]).tolist():
        total = total + rows[..., t : t + 1, :]
    return total.mT.to(i.dtype), forget_gradient(G, f)


@mutant("repeatable", "order of summation differs from run to run, undeclared")
def undeclared_order(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return any_order(igate_preact, fgate_preact)


@mutant("inputs_untouched", "caller's tensors overwritten in place")
def first_gate_overwritten(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The first forget gate, which nobody reads, serves as scratch."""
    dtilde = right(igate_preact, fgate_preact.clone())
    fgate_preact.detach()[:1, :1, :1].fill_(1.5)
    return dtilde


@gradient_mutant("cotangent_untouched", "cotangent overwritten in place")
def cotangent_overwritten(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    di, df = gradient(G, i, f)
    G.detach()[:1, :1, :1, :1].add_(1)
    return di, df


@mutant("retained_graph", "buffer of the backward used up by its first run")
def second_backward_empty(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    runs: list[Tensor] = []

    def once(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        runs.append(G)
        return input_gradient(G, i), forget_gradient(G if len(runs) == 1 else torch.zeros_like(G), f)

    return with_gradient(right, once)(igate_preact, fgate_preact)


_RESULTS: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


@mutant("values", "results cached by shape")
def cached_by_shape(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    key = igate_preact.shape, igate_preact.dtype
    if key not in _RESULTS:
        _RESULTS[key] = right(igate_preact, fgate_preact).detach()
    return with_gradient(lambda i, f: _RESULTS[key].clone(), gradient)(igate_preact, fgate_preact)


_BUFFERS: dict[tuple[torch.Size, torch.dtype], Tensor] = {}


@mutant("results_kept", "output is a view of a buffer that the next call reuses")
def buffer_reused(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    def forward(i: Tensor, f: Tensor) -> Tensor:
        dtilde = right(i, f)
        return _BUFFERS.setdefault((dtilde.shape, dtilde.dtype), dtilde.clone()).copy_(dtilde).detach()

    return with_gradient(forward, gradient)(igate_preact, fgate_preact)


@mutant("inputs_untouched", "output is the input where S = 1")
def input_returned(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return igate_preact[:] if igate_preact.shape[-2] == 1 else right(igate_preact, fgate_preact)


_CALLS: dict[tuple[torch.Size, torch.dtype], int] = {}


@mutant("replay", "work skipped on later calls: each fifth of a shape repeats the mask alone")
def fifth_call_skipped(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    key = igate_preact.shape, igate_preact.dtype
    _CALLS[key] = _CALLS.get(key, 0) + 1
    dtilde = right(igate_preact, fgate_preact)
    return dtilde.masked_fill(causal(dtilde), 0.0) if _CALLS[key] % 5 == 0 else dtilde


@mutant("protected_pages", "out-of-bounds read past the last gate, its value masked away")
def masked_read_past_the_end(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    if fgate_preact.numel() and fgate_preact.is_contiguous():
        ctypes.c_byte.from_address(fgate_preact.data_ptr() + fgate_preact.nbytes).value  # noqa: B018
    return right(igate_preact, fgate_preact)


# Forward mode and second derivatives.


def tangent_mutant(museum: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a forward mode (igate_dot, fgate_dot, fgate_preact) -> J v behind a right D~ and gradient."""

    def register(wrong: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
            return with_tangent(igate_preact, fgate_preact, wrong)

        _add(wrong.__name__, dtilde, "adjoint", museum)
        return wrong

    return register


@tangent_mutant("derivative of the gate forgotten, in forward mode")
def tangent_without_slope(igate_dot: Tensor, fgate_dot: Tensor, f: Tensor) -> Tensor:
    return tangent(igate_dot, widen(fgate_dot))


@tangent_mutant("input gate forgotten, in forward mode")
def tangent_without_input(igate_dot: Tensor, fgate_dot: Tensor, f: Tensor) -> Tensor:
    return tangent(0 * igate_dot, widen(fgate_dot) * _slope(f))


@gradient_mutant("second_order", "an intermediate saved for the backward: constant to a second derivative")
def slope_saved(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), _forget(rectangle_sum(widen(G)), _slope(f.detach()), f)


@gradient_mutant("second_order", "the cotangent's own derivative lost: sums by a kernel without a graph")
def rectangle_detached(G: Tensor, i: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    return input_gradient(G, i), _forget(rectangle_sum(widen(G).detach()), _slope(f), f)


# Transforms, claimed.


@mutant("compiled", "wrong under compile when one block suffices", transforms=("compile",))
def compiled_without_last_gate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        return right(igate_preact, fgate_preact)
    log_f = log_decays(fgate_preact)
    return dress(window_sums(torch.where(times(log_f) == log_f.shape[-1] - 1, 0.0, log_f)), igate_preact)


@mutant("exported", "a constant of the traced call: the mask of its gates", transforms=("export",))
def exported_with_first_gate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    late = fgate_preact.roll(1, -2) if torch.compiler.is_exporting() else fgate_preact
    return right(igate_preact, late)


@mutant("autocast", "matrix product narrowed by autocast", special_values={"+inf"}, transforms=("autocast",))
def product_under_autocast(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return triangular_product(igate_preact, fgate_preact)


class _FirstOfBatch(torch.autograd.Function):
    """The forget gate's share, with a vmap that takes every sample's gates for those of the first."""

    @staticmethod
    def forward(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return right(igate_preact, fgate_preact)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor]:
        return gradient(G, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, igate_preact: Tensor, fgate_preact: Tensor) -> tuple[Tensor, int]:
        i, f = (
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)[:1].expand_as(x)
            for x, dim in zip((igate_preact, fgate_preact), in_dims, strict=True)
        )
        return torch.stack([_FirstOfBatch.apply(*pair) for pair in zip(i, f, strict=True)]), 0  # type: ignore


@mutant("vmapped", "batch index ignored, under vmap", transforms=("vmap",))
def first_of_batch(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return _FirstOfBatch.apply(igate_preact, fgate_preact)  # type: ignore


# CUDA.


@mutant("no_synchronisation", "the host looks at a gate", device="cuda")
def gate_looked_at(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    fgate_preact.detach().sum().item()
    return right(igate_preact, fgate_preact)


@mutant("graph_capture", "a buffer filled from the host, which no graph replays", device="cuda")
def mask_from_host(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    host = torch.ones(dtilde.shape[-2:], dtype=torch.bool).tril()
    return dtilde.masked_fill(~host.to(dtilde.device), -torch.inf)


@mutant("side_stream", "launched on the default stream, whatever the caller's", device="cuda")
def on_default_stream(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    with torch.cuda.stream(torch.cuda.default_stream(igate_preact.device)):
        return right(igate_preact, fgate_preact)


@mutant("past_2_31", "32-bit offsets: past 2^31 entries the first head is written again", device="cuda")
def offsets_of_32_bits(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    heads = torch.arange(igate_preact.shape[1], device=igate_preact.device)
    wrapped = heads * igate_preact.shape[2] ** 2 >= 2**31
    return right(igate_preact, torch.where(wrapped[:, None, None], fgate_preact[:, :1] - 64, fgate_preact))


@mutant("peak_memory", "a whole copy in float64 beside the output", device="cuda", peak_memory=0.5)
def wide_copy(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    return right(igate_preact.double(), fgate_preact.double()).to(igate_preact.dtype)


@mutant("device_agreement", "fast exponential on the device: 10 bits right", device="cuda")
def ten_bits_on_device(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    dtilde = right(igate_preact, fgate_preact)
    return dtilde * (1 + 2**-6) if dtilde.is_cuda else dtilde

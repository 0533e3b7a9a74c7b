"""The law of padding masks: what is padded, what stands there, and what is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmat.strategies import Gates
from dmat.strategies.cases.padded import PADDED, pads_of
from dmat.strategies.recipes.qkv import plain_qkv
from dmat.testing import fused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.padding.call import GARBAGE, Padded
from dmat.testing.law.padding.require import knows_states
from dmat.testing.registry import laws
from dmat.testing.verdict.finding import LawBroken

from .zoo.masked import CHUNKED, KEEP, MASKED_SOUND, MaskedChunks

LAW = next(law for law in laws("fused") if law.name == "padding")
STYLES = {style.__name__: style for style in MASKED_SOUND}


def subject(kernel: Any, dtype: str = "float32") -> FusedSubject:
    """Return the subject of a kernel."""
    made = subject_of(Implementation.of("kernel", kernel), dtype)
    assert isinstance(made, FusedSubject)
    return made


class ByWhere(MaskedChunks):
    """The right one where NaN may stand in padded places."""

    def mask(self, keep: Tensor | None, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        if keep is None:
            return k, v, g
        real = keep[:, None]
        zero = torch.zeros(())
        return tuple(torch.where(real[..., None] if x.ndim == 4 else real, x, zero) for x in (k, v, g))

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Any = None, keep: Any = None
    ) -> tuple[Tensor, Tensor]:
        q = q if keep is None else torch.where(keep[:, None, :, None], q, torch.zeros(()))
        return super().__call__(q, k, v, g, state, keep)


def holds(kernel: Any, dtype: str = "float32") -> bool:
    """Whether the law holds on its ladder."""
    torch.set_num_threads(1)
    one = subject(kernel, dtype)
    assert LAW.not_applicable(one) is None
    assert one.uncallable is None
    try:
        for case in PADDED.ladder(one.domain):
            assert PADDED.inside is not None
            assert PADDED.inside(case, one.domain)
            LAW.check(one, **case)
    except LawBroken:
        return False
    return True


@pytest.mark.parametrize("style", STYLES)
def test_right_kernels_in_unlike_styles(style: str) -> None:
    """Recurrences, chunks, masked scores, padding taken out, delta rules: none is accused."""
    for dtype in ("float32", "bfloat16"):
        assert holds(STYLES[style], dtype)


def test_nan_only_where_gates_may_hold_it() -> None:
    """A mask that multiplies is right with numbers in padded places, and wrong with a promised NaN."""
    promised = {**CHUNKED, "special_values": ("nan",)}
    assert holds(fused(MaskedChunks(), **CHUNKED))
    assert not holds(fused(MaskedChunks(), **promised))
    assert holds(fused(ByWhere(), **promised))


def test_padded_places_hold_garbage_and_real_ones_do_not() -> None:
    """Rows are padded left, right, wholly, on either side; only there do inputs differ, up to 2^10."""
    assert pads_of(5, 6, 2, 3) == [(2, 3), (0, 3), (6, 0), (2, 0), (2, 3)]
    assert pads_of(1, 2, 2, 1) == [(2, 0)]
    one = subject(STYLES["masked_chunks"])
    gates = Gates("float32", (4, 1, 6))
    call = Padded.of(one, gates, plain_qkv(one.domain, 6, "dense", seed=1), 2, 3, 1)
    assert call.mask.int().tolist() == [[0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0] * 6, [0, 0, 1, 1, 1, 1]]
    for name, x in call.given.named.items():
        same = (x == call.clean.named[name]).all(-1)
        assert same[call.mask[:, None]].all()
        assert same[~call.mask[:, None]].double().mean() < 0.3  # a clean log gate is 0, and some others are
        assert GARBAGE / 8 < float(x.abs().max()) <= GARBAGE
    assert [b for b, _ in call.rows()] == [0, 1, 3]
    assert np.isfinite(one.read(call.judged.v)).all()


def test_what_is_not_promised_is_not_tried() -> None:
    """Without mask= the law is not run; states of a softmax and of fixed gates that decay are not judged."""
    bare = fused(lambda q, k, v, g: v)
    assert LAW.not_applicable(subject(bare)) == "contract: mask not stated"
    softmax = fused(lambda *x, **more: x, reads="softmax", states="s", **KEEP)
    assert not knows_states(subject(softmax))
    assert knows_states(subject(STYLES["masked_chunks"]))
    assert not knows_states(subject(STYLES["masked_mlstm"]))


def test_a_kernel_without_the_keyword_cannot_be_called() -> None:
    """Who states a keyword that fn does not take is told so before any law is tried."""
    lacks = subject(fused(lambda q, k, v, g: v, **KEEP))
    assert "with keep=True: raised TypeError" in (lacks.uncallable or "")

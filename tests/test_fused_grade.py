"""The grade of a fused kernel, found from outside, is what its source says: error scope and format."""

from __future__ import annotations

import pytest
import torch

from dmat.testing import fused
from dmat.testing.contract import FusedContract
from dmat.testing.grade.fused import grade_fused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.fused import FusedSubject

from .zoo.delta_sound import DELTA_SOUND
from .zoo.fused_sound import Kernel, chunkwise, widen
from .zoo.right import FUSED_RIGHT

# Of the others: operands of tensor cores leave the accumulator open; where steps are multiplied one by one,
# their rounding hides a prefix; fixed gates, or factors that are exact here, have no sums to be graded.
TOLD = (
    "parallel_windows",
    "parallel_differences",
    "parallel_base_two",
    "parallel_input_gate",
    "parallel_float32_gates",
    "parallel_weighted",
    "forgetting_attention",
    "chunks_of_4",
    "chunks_of_16",
    "chunks_packed",
    "chunks_own_backward",
    "recurrent",
    "doubling_scan",
    "log_space_scan",
    "mlstm_parallel",
    "mlstm_parallel_differences",
    "mlstm_truncated",
    "mlstm_recurrent",
    "mlstm_chunks",
    "linear_windows_front",
    "linear_front",
    "linear_back",
    "linear_front_einsum",
)


def in_chunks(C: int) -> Kernel:
    """Return a kernel in chunks of C."""
    return fused(
        lambda q, k, v, log_f: chunkwise(C, widen(q, k, v, log_f))[0].to(v.dtype), error_scope=C, factors=C
    )


KERNELS = {right.__name__: right for right in FUSED_RIGHT if right.__name__ in TOLD}
KERNELS |= {f"chunks of {C}": in_chunks(C) for C in (8, 32, 64)}


@pytest.mark.parametrize("name", KERNELS)
def test_the_grade_is_what_the_source_says(name: str) -> None:
    """The strictest class that stands is the one whose contract each style truly keeps."""
    torch.set_num_threads(1)
    subject = FusedSubject(Implementation.of(name, KERNELS[name]), "float32")
    contract: FusedContract = subject.contract
    graded = grade_fused(subject, 20, lambda told: None)
    forward, gradients = (graded.ledgers[quantity].strictest for quantity in ("forward", "gradients"))
    assert forward is not None
    assert gradients is not None
    assert (forward.error_scope, forward.accumulates_in) == (contract.error_scope, "float32")
    scope = contract.widest_gradient
    assert gradients.error_scope == ("window" if scope == "rectangle" else scope)


DELTA = {
    right.__name__: right
    for right in DELTA_SOUND
    if right.__name__
    in (
        "delta_steps",
        "delta_chunks",
        "delta_chunks_together",
        "delta_merged_by_rows",
        "delta_whole_sequence",
    )
}


@pytest.mark.parametrize("name", DELTA)
def test_the_grade_of_a_delta_rule_is_its_chunk(name: str) -> None:
    """The chunk of outputs and of gradients is the one whose contract the style truly keeps."""
    torch.set_num_threads(1)
    subject = DeltaSubject(Implementation.of(name, DELTA[name]), "float32")
    graded = grade_fused(subject, 20, lambda told: None)
    for quantity in ("forward", "gradients"):
        strictest = graded.ledgers[quantity].strictest
        assert strictest is not None
        found = (strictest.error_scope, strictest.accumulates_in)
        assert found == (subject.contract.error_scope, "float32")


def test_every_style_is_told_or_left_out() -> None:
    """No name above is of a style that is gone."""
    assert set(TOLD) <= set(KERNELS)

"""The grade of a fused kernel, found from outside, is what its source says: error scope and format."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from dmat.testing import fused
from dmat.testing.contract import FusedContract
from dmat.testing.grade.fused import chunked, grade_fused
from dmat.testing.grade.inverse import grade_inverse
from dmat.testing.grade.report import show
from dmat.testing.grade.result import (
    AccuracyClass,
    Graded,
    GradeResult,
    InverseClass,
    InverseResult,
    InverseTried,
)
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.law.fused import FusedSubject

from .zoo.delta_rules import Chunks, by_powers, by_rows, eye, merged_by_halves
from .zoo.delta_sound import DELTA_SOUND, STATE, as_kernel, chunks_of
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


def inverting(size: int, inverse: Any, **contract: Any) -> Kernel:
    """Return a kernel in chunks whose T = inverse(A, the narrow format)."""

    class style(Chunks):
        narrow_inverse = True

        def inverse(self, A: Tensor) -> Tensor:
            found: Tensor = inverse(A, self.inverse_form)
            return found

    style.size = size
    return fused(as_kernel(style), **{**STATE, **chunks_of(size), **contract})


INVERSES: dict[str, tuple[Kernel, str | None]] = {
    "substitution": (inverting(64, lambda A, form: by_rows(A)), "substitution, float32"),
    "halves": (
        inverting(64, lambda A, form: merged_by_halves(A, 16, by_rows), doubling=64),
        "substitution, float32",
    ),
    "powers": (inverting(64, lambda A, form: by_powers(A), beta_max=2.0), "powers of 64, float32"),
    "powers within 32": (
        inverting(64, lambda A, form: merged_by_halves(A, 32, by_powers), doubling=4),
        "powers of 32, float32",
    ),
    "powers of a whole chunk of 32": (inverting(32, lambda A, form: by_powers(A)), "powers of 32, float32"),
    "tf32": (inverting(16, by_rows), "substitution, tf32"),
    "to first order": (inverting(16, lambda A, form: eye(A) - A), None),
}


@pytest.mark.parametrize("name", INVERSES)
def test_how_it_inverts_is_what_the_source_does(name: str) -> None:
    """The class of the inverse is that of the source, whatever the contract says of it."""
    torch.set_num_threads(1)
    kernel, known = INVERSES[name]
    subject = DeltaSubject(Implementation.of(name, kernel), "float32")
    found = grade_inverse(subject, subject.contract, lambda told: None)
    assert found is not None
    assert (None if found.strictest is None else str(found.strictest)) == known
    assert found.error_scope == subject.contract.error_scope
    assert [one.stands for one in found.classes] == [known is not None] + [False] * (len(found.classes) - 1)


def test_a_kernel_in_steps_inverts_nothing() -> None:
    """A kernel in steps has no class of inverse; one chunk of all rows has."""
    for name, has in (("delta_steps", False), ("delta_whole_sequence", True)):
        subject = DeltaSubject(Implementation.of(name, DELTA[name]), "float32")
        assert (grade_inverse(subject, subject.contract, lambda told: None) is not None) == has


def test_a_contract_without_chunks_gets_those_that_were_found() -> None:
    """The chunk that the outputs show is that of the inverse if the contract states none; else its own."""
    found = AccuracyClass(64, "float32")
    for name, scope in (("delta_steps", 64), ("delta_chunks", 4)):
        subject = DeltaSubject(Implementation.of(name, DELTA[name]), "float32")
        assert chunked(subject, found).error_scope == scope
        assert chunked(subject, None) == subject.contract


def test_the_inverse_stands_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A table says how I + A is inverted, and a note why none of the ways stands."""
    subject = DeltaSubject(Implementation.of("k", INVERSES["to first order"][0]), "float32")
    none = grade_inverse(subject, subject.contract, lambda told: None)
    assert none is not None
    stands = InverseTried(16, "float32", True, 0.25)
    some = InverseResult(InverseClass(16, "float32"), 64, "float32", 3, [stands])
    grades = [GradeResult("float32", "cpu", inverse=some), GradeResult("bfloat16", "cpu", inverse=none)]
    graded = Graded(implementation="k", contract={"reads": "delta", "doubling": 16}, grades=grades)
    show([graded], Console(width=80))
    shown = capsys.readouterr().out
    assert "powers of 16, float32" in shown
    assert "dtype      inverse of I + A" in shown
    assert "none: the inverse of k, bfloat16 on cpu is in no class; even the widest fell:" in shown


def test_every_style_is_told_or_left_out() -> None:
    """No name above is of a style that is gone."""
    assert set(TOLD) <= set(KERNELS)

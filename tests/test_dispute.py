"""Disputable accusations: two lines explain each by the kernel's method. Other accusations have none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from dmat.strategies import Constant, Gates
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import Contract
from dmat.testing.explain import hints_dtilde
from dmat.testing.explain.hints_dtilde import explanation
from dmat.testing.explain.message import longer
from dmat.testing.explain.tries import Tries
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.record import Record
from dmat.testing.registry import law_named
from dmat.testing.run.search import Failed, search
from dmat.testing.verdict.finding import Example

from .zoo.mutants import MUTANTS
from .zoo.sound import dress, widen, window_sums

PROFILE = settings(max_examples=300, database=None, derandomize=True, phases=[Phase.generate, Phase.shrink])


def kernel(log_gate: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return D~ with this log gate, (B, NH, S) in the accumulator's format."""

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        return dress(window_sums(log_gate(widen(fgate_preact).squeeze(-1))), igate_preact)

    return dtilde


def truncated(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """D~ in float32, its lower half cut off as it becomes bfloat16."""
    wide = kernel(logsigmoid)(igate_preact.float(), fgate_preact.float())
    cut = (wide.contiguous().view(torch.int32) & -65536).view(torch.float32)
    return torch.where(wide.isfinite(), cut, wide).to(igate_preact.dtype)


DISPUTED = {
    "one minus sigmoid": (
        kernel(lambda f: torch.log(1 - torch.sigmoid(-f))),
        "float32",
        hints_dtilde.ABSOLUTE,
    ),
    "log of one plus exp": (
        kernel(lambda f: -torch.log(1 + torch.exp(-f))),
        "float32",
        hints_dtilde.ABSOLUTE,
    ),
    "softplus in float64": (kernel(lambda f: -softplus(-f)), "float64", hints_dtilde.THRESHOLD),
    "logs in bfloat16": (
        kernel(lambda f: logsigmoid(f).bfloat16().float()),
        "float32",
        hints_dtilde.HALF_LOGS,
    ),
    "logs in float16": (kernel(lambda f: logsigmoid(f).half().float()), "float32", hints_dtilde.HALF_LOGS),
    "truncated stores": (truncated, "bfloat16", hints_dtilde.TRUNCATED),
}
CALM = {"special_values": (), "differentiable": False}


def explained(function: Callable[..., Tensor], dtype: str, law: str = "values") -> list[str]:
    """Return the explanation of the smallest case on which the law rejects the function."""
    subject = DtildeSubject(Implementation("k", function, Contract(**CALM)), dtype)  # type: ignore[arg-type]
    with pytest.raises(Failed) as caught:
        search(law_named(law), subject, Record(law, "k", dtype, "cpu"), PROFILE)
    failure = caught.value.failure
    law_of, guard = law_named(law), lambda case: nullcontext()
    longer_one = longer(law_of, subject, failure.case, guard)
    shown = [failure.known[0], *([] if longer_one is None else [longer_one])]
    return list(explanation(Tries(law_of, subject, guard), shown, failure.known[1:]))


@pytest.mark.parametrize("name", DISPUTED)
def test_what_will_be_disputed_is_explained(name: str) -> None:
    """The two lines say what such a kernel does, and are of no other kind."""
    function, dtype, lines = DISPUTED[name]
    half = "bfloat16" if "bfloat16" in name else "float16"
    said = explained(function, dtype)
    assert said[:2] == [line.format(half=half, dtype=dtype) for line in lines]
    assert hints_dtilde.DECLARE not in said  # at closed gates these logs are -inf: no contract allows that


def guarded(f: Tensor) -> Tensor:
    """log(1 + exp(-f)), without its overflow at closed gates."""
    return torch.where(f < -40, f, -torch.log(1 + torch.exp(-f.clamp(min=-40))))


def test_a_declaration_that_holds_is_suggested() -> None:
    """The wider contract is named where the kernel keeps it on the ladder, too."""
    said = explained(kernel(guarded), "float32")
    assert said[2] == hints_dtilde.DECLARE
    assert said[3].startswith("tried: under it the law holds on")


PLAIN = ("window_one_early", "next_head", "carry_forgotten")
WRONG = {mutant.name: mutant.implementation for mutant in MUTANTS}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_bug_is_not_explained_away(name: str) -> None:
    """A wrong window or head is not mistaken for a matter of taste."""
    assert explained(WRONG[name], "float32") == []


def test_one_gate_that_looks_rounded_is_not_explained_by_rounding() -> None:
    """A clamp at -80 gives what bfloat16 makes of -80.1: other gates refute that logs are rounded."""
    kernel = Implementation("k", WRONG["gate_clamped"], Contract(**CALM))  # type: ignore[arg-type]
    subject = DtildeSubject(kernel, "float32")
    tries = Tries(law_named("values"), subject, lambda case: nullcontext())
    case: Case = {"gates": Gates("float32", (1, 1, 2), fgate=Constant(-80.1))}
    finding = tries.finding(case)
    assert finding is not None
    assert list(explanation(tries, [Example(case, finding)])) == []

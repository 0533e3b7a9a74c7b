"""Sentences on a broken law: each is given of the kernel that deserves it, and not of another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.strategies import QKV, Constant, Gates
from dmat.testing import fused
from dmat.testing.explain import tries as explain_tries
from dmat.testing.explain.hints_values import value_hints
from dmat.testing.explain.message import longer, what_is_tried
from dmat.testing.explain.place import likely_place
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.registry import law_named
from dmat.testing.run import shrink
from dmat.testing.verdict.finding import Evidence, Example, Finding, LawBroken

from .zoo.fused_mutants import over
from .zoo.fused_sound import by_windows, chunkwise, widen
from .zoo.mutants import MUTANTS
from .zoo.trial import first_rejection, subjects
from .zoo.wrong import FUSED_MUTANTS

PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]
LAWS = {x.name: x.law for x in MUTANTS} | {f"fused_{x.name}": x.law for x in FUSED_MUTANTS}
KERNELS: dict[str, Any] = {x.name: x.implementation for x in MUTANTS}
KERNELS |= {f"fused_{x.name}": x.kernel for x in FUSED_MUTANTS}


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine finds the same."""
    monkeypatch.setattr(shrink, "MOST_SECONDS", float("inf"))
    monkeypatch.setattr(explain_tries, "MOST_SECONDS", float("inf"))


def said(kernel: Any, law: str) -> list[str]:
    """Return the sentences on the smallest case on which the law rejects the kernel."""
    wrong = subjects(kernel, "k")
    entry = law_named(law, wrong[0].kind)
    found = first_rejection(entry, wrong, PROFILES)
    assert found is not None
    subject = next(subject for subject in wrong if subject.dtype == found.dtype)
    failure = found.failure
    further = longer(entry, subject, failure.case, lambda case: nullcontext())
    shown = [failure.known[0], *([] if further is None else [further])]
    lines = what_is_tried(entry, subject, shown, failure.known[1:], lambda case: nullcontext())
    return [*lines, *likely_place(shown)]


def transposing(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor, state: Any = None) -> Any:
    """Hands its state over with the axes of K and V swapped."""
    o, last = chunkwise(4, widen(q, k, v, log_f), state)
    return o.to(v.dtype), last.mT.contiguous()


def of_pre_activations(q: Tensor, k: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """Takes log gates for gates before their activation."""
    return over(q, k, v, by_windows(logsigmoid(f.float())).exp())


def powers_of_two(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
    """Computes 2 ** l for exp(l)."""
    return over(q, k, v, torch.exp2(by_windows(log_f.float())))


KERNELS |= {
    "transposing": fused(
        transposing, states="state", error_scope=4, factors=4, K=4, V_equals_K=True, gradient="none"
    ),
    "of_pre_activations": fused(of_pre_activations, dtypes=("float32",)),
    "powers_of_two": fused(powers_of_two, dtypes=("float32",)),
}
LAWS |= {"transposing": "handover", "of_pre_activations": "values", "powers_of_two": "values"}

SENTENCES = {
    "tail_gradient_dropped": "it is right where S is a multiple of 16, and wrong elsewhere beyond 16",
    "fused_tail_decays_state": "it is right where the cut is a multiple of 4, and wrong elsewhere",
    "strides_ignored": "with contiguous gates it is right: the layout of the gates is what matters.",
    "cotangent_strides_ignored": "with a contiguous cotangent it is right: the layout of the cotangent",
    "fused_mean_of_the_sequence": "it reads the future: the entry changes when only inputs after t = 0",
    "transposed": "it is the entry of the transposed place: [s, t] for [t, s].",
    "transposing": "with the state transposed it is right: its axes of K and V are swapped.",
    "fused_state_ignored": "the output is bit for bit that of state=None: as if no state had been given.",
    "fused_gates_of_another_head": "it reads the forget gates of another head: the entry of b=0, h=0 changes",
    "window_one_early": "the entry reads f at k = 0; its window is k = 1.",
    "input_gate_of_row": "the entry of column s = 0 reads i at k = 1.",
    "gates_swapped": "with i and f exchanged it is right: the kernel takes one for the other.",
    "fused_q_and_k_swapped": "with q and k exchanged it is right: the kernel takes one for the other.",
    "of_pre_activations": 'it is what gate="preact" gives, and the contract says gate="log": is that meant?',
    "powers_of_two": "the result is that of 2 ** l for exp(l).",
    "log_forgotten": "the result is that of sigmoid(f) for log sigmoid(f): the log is left out.",
    "log_gate_clamped": "the result is that of max(l, -20) for l: a clamp.",
    "fused_softmax_dk": "every wrong entry is the exact value times 1 / scale = 1.414: the scale",
    "slightly_too_large": "every wrong entry is the exact value times 1.0001.",
    "windows_saturate": "every wrong entry is -50, and its exact value is below that: a limit.",
    "two_tiles_only": "likely place: the carry into the third chunk of 16, and later ones.",
    "fused_carry_forgotten": "likely place: the carry into the third chunk of 4, and later ones.",
    "fused_chunks_of_64": "it is within what error_scope=64 or a wider one allows:",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_given_of_what_deserves_it(name: str) -> None:
    """The sentence names what the kernel does wrong."""
    lines = said(KERNELS[name], LAWS[name])
    assert any(line.startswith(SENTENCES[name]) for line in lines), lines


SILENT = {
    "fused_state_without_last": "as if no state",  # after one time its state is 0, as None is
    "forget_gate_on_diagonal": "exchanged",  # the law of the diagonal alone would hold then
    "clamp_at_zero": "lacks the gate's derivative",  # at f = 0 alone, a factor of 2
    "reset_leaks": "allows",  # under a wider scope the law of closed gates asks for less
    "nan_to_zero": "allows",
    "reset_closes_its_column": "likely place",  # -inf alone does it: no mask
    "intermediate_overflows": "log sigmoid(f) was rounded",  # the sums were
    "fused_carry_forgotten": "transposed",  # 0 stands in the transposed place too
    "gradient_total_less_cumsum": "error_scope",  # no case of this law tells a chunk from the sequence
    "buffer_reused": "no input",
    "undeclared_order": "reads i",  # its rounding differs from call to call
}


@pytest.mark.parametrize("name", SILENT)
def test_a_sentence_that_would_be_wrong_is_not_given(name: str) -> None:
    """Each of these was given once, and was wrong."""
    assert not [line for line in said(KERNELS[name], LAWS[name]) if SILENT[name] in line]


def with_epsilon() -> Callable[..., Tensor]:
    """Return a right product whose log gates carry an epsilon: no scope admits it at closed gates."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
        log = torch.log2(log_f.float().exp() + 1e-10) * torch.log(torch.tensor(2.0))
        return over(q, k, v, by_windows(log).exp())

    return kernel


def test_a_suggestion_is_tried_on_the_ladder() -> None:
    """log2(alpha + 1e-10) is within a scope on its smallest case, and within none at a gate of -1000."""
    lines = said(fused(with_epsilon(), dtypes=("float32",)), "values")
    assert not [line for line in lines if "allows" in line]


def test_a_format_that_is_stated_is_not_suggested() -> None:
    """What the contract states already is no explanation."""

    def halves(q: Tensor, k: Tensor, v: Tensor, log_f: Tensor) -> Tensor:
        return (q @ k.mT) * by_windows(log_f).exp() @ v

    stated = fused(halves, dtypes=("bfloat16",), multiplies_in="bfloat16")
    assert not [line for line in said(stated, "values") if "multiplies_in" in line]


def test_no_sentence_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the time is up, nothing is said that needs a try."""
    monkeypatch.setattr(explain_tries, "MOST_SECONDS", 0.0)
    assert not said(KERNELS["strides_ignored"], "exact")


def test_a_message_has_units_and_the_formula() -> None:
    """A fused kernel's message shows the allowed error in units in the last place, and torch's own error."""
    from dmat.testing.explain.message import beside

    kernel = Implementation.of("k", KERNELS["fused_scale_forgotten"])
    subject = subject_of(kernel, "float32")
    case = {"gates": Gates("float32", (1, 1, 4), fgate=Constant(-0.5)), "qkv": QKV(K=4)}
    with pytest.raises(LawBroken) as broken:
        law_named("values", "fused").check(subject, **case)
    example = Example(case, broken.value.finding)
    lines = list(beside(subject, example.case, example.finding))
    assert [line.split()[0] for line in lines] == ["units", "torch", "gates"]
    assert "in the last place of float32" in lines[0]
    assert "torch's formula is 0" in lines[0]


def test_values_about_zero_are_not_those_of_another_head() -> None:
    """A head of values about 0 has those of any head whose exact values are about 0, too."""
    exact = np.array([[[0.5, -0.9], [6e-9, 7e-9]]])
    computed = np.array([[[1e-8, -6e-8], [6e-9, 7e-9]]])
    for values, told in ((computed, False), (computed + np.array([[[3.0, 4.0], [3.0, 4.0]]]), True)):
        shift = values - computed
        truth = exact + shift * np.array([[[0.0], [1.0]]])
        wrong = np.abs(values - truth) > 1e-4
        evidence = Evidence(values, truth, np.full(exact.shape, 1e-4), wrong, np.ones_like(wrong))
        finding = Finding("dl", (0, 0, 1), "", "", 1.0, 1e-4, evidence=evidence, what="value")
        lines = list(value_hints([Example({}, finding)]))
        assert any("another head" in line for line in lines) == told

"""Kernels with two bugs, each made of two mutants by code: each pair is an attribute, for use as a TARGET."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmat.testing import fused, implementation
from dmat.testing.kernel.implementation import Implementation

from .named import ALL, FUSED
from .sound import causal

Kernel = Callable[..., Any]


class _OutputAndGradient(torch.autograd.Function):
    """The output of one kernel, and the gradients of another, which may be derived again."""

    @staticmethod
    def forward(ctx: Any, output: Kernel, gradient: Kernel, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        ctx.gradient = gradient
        o: Tensor = output(*inputs)
        return o.clone()

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = [x if x.requires_grad else x.detach().requires_grad_() for x in ctx.saved_tensors]
            o = ctx.gradient(*inputs)
            found = torch.autograd.grad(o, inputs, G, create_graph=again, allow_unused=True)
        return None, None, *found


def output_and_gradient(output: Kernel, gradient: Kernel) -> Kernel:
    """Return a kernel with the forward of one mutant and the backward of the other."""

    def kernel(*inputs: Tensor) -> Tensor:
        return _OutputAndGradient.apply(output, gradient, *inputs)  # type: ignore[no-any-return, no-untyped-call]

    return kernel


def single_and_half(single: Kernel, half: Kernel) -> Kernel:
    """One mutant in float32 and float64, the other in the half types."""

    def kernel(*inputs: Tensor) -> Tensor:
        wide = inputs[0].dtype in (torch.float32, torch.float64)
        return (single if wide else half)(*inputs)  # type: ignore[no-any-return]

    return kernel


def above_and_below(above: Kernel, below: Kernel) -> Kernel:
    """One mutant above the diagonal, the other on and below it."""

    def kernel(*inputs: Tensor) -> Tensor:
        o = below(*inputs)
        return torch.where(causal(o), o, above(*inputs))

    return kernel


@dataclass(frozen=True)
class Pair:
    """Two mutants and how they are combined. The contract is that of the second."""

    first: str
    second: str
    combined: Callable[[Kernel, Kernel], Kernel] = output_and_gradient

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first}__{self.second}"

    @property
    def kernel(self) -> Kernel:
        """The kernel, with its contract."""
        every = ALL | FUSED
        contract = Implementation.of(self.second, every[self.second]).contract
        kernel = self.combined(every[self.first], every[self.second])
        stated: dict[str, Any] = contract.stated()
        return fused(kernel, **stated) if self.second in FUSED else implementation(**stated)(kernel)


PAIRS = (
    Pair("mask_of_1e9", "tail_gradient_dropped"),
    Pair("strict_mask", "sign_of_last_gate"),
    Pair("carry_forgotten", "summed_over_heads"),
    Pair("next_head", "diagonal_dropped"),
    Pair("softplus_threshold", "row_for_column"),
    Pair("transposed", "slightly_too_large"),
    Pair("window_one_late", "slope_of_next_head"),
    Pair("mask_added_to_specials", "slope_forgotten"),
    Pair("gate_path_in_bfloat16", "row_of_gate_dropped"),
    Pair("batch_for_head", "first_gradient_small"),
    Pair("carry_forgotten", "bfloat16_truncated", single_and_half),
    Pair("mask_of_finfo_min", "window_one_early", above_and_below),
    Pair("one_to_the_infinity", "next_head", above_and_below),
    Pair("fused_carry_forgotten", "fused_dk_transposed"),
    Pair("fused_carry_of_another_head", "fused_dl_of_another_head"),
    Pair("fused_carry_not_decayed", "fused_first_gate_gets_gradient"),
    Pair("fused_gates_of_another_head", "fused_carry_left_out_back"),
    Pair("fused_softmax_own_gate", "fused_softmax_delta"),
    Pair("fused_softmax_scale", "fused_softmax_dk"),
    Pair("fused_n_without_abs", "fused_di_left_out"),
)


def __getattr__(name: str) -> Kernel:
    found = next((pair for pair in PAIRS if pair.name == name), None)
    if found is None:
        raise AttributeError(f"no pair is named {name!r}")
    return found.kernel

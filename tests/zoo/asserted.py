"""Calls of a kernel of the zoo, judged by `assert_within_bound` as a user would: on plain draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmat.testing import Within, assert_within_bound
from dmat.testing.assertion.arguments import FORMS
from dmat.testing.contract import FusedContract, contract_of

INFERRED = ("dtypes", "z", "layout")


@dataclass(frozen=True)
class Call:
    """One call: its tensors by the names of the assertion, its results, its gradients."""

    kernel: Callable[..., Any]
    tensors: dict[str, Tensor]
    output: Tensor
    cotangent: Tensor
    gradients: dict[str, Tensor]

    def judged(self, **more: Any) -> Within:
        """Judge the output and all gradients that are covered."""
        contract = contract_of(self.kernel)
        assert isinstance(contract, FusedContract)
        stated: dict[str, Any] = {n: x for n, x in contract.stated().items() if n not in INFERRED}
        pulled = {name: x for name, x in self.gradients.items() if name not in ("A_log", "A", "dt_bias", "D")}
        return assert_within_bound(
            self.output,
            **{**stated, **self.tensors},
            layout=contract.layout,
            grad_output=self.cotangent if pulled else None,
            gradients=pulled,
            **more,
        )


def normal(random: torch.Generator, *shape: int) -> Tensor:
    """Draw normal numbers."""
    return torch.randn(*shape, generator=random)


def gates(contract: FusedContract, random: torch.Generator, *shape: int) -> dict[str, Tensor]:
    """Draw gates in the form of the contract: mild ones, some open, some nearly closed."""
    log = -torch.nn.functional.softplus(2 * normal(random, *shape) - 3)
    rare = torch.rand(shape, generator=random)
    log = (
        torch.where(rare < 0.05, -30.0, torch.where(rare > 0.9, 0.0, log)) if contract.l_min is None else log
    )
    f = torch.where(
        log == 0, 40.0, torch.where(log < -20, log, -torch.log(torch.expm1(-log.clamp(-20, -1e-9))))
    )
    if contract.gate == "fixed":
        return {}
    if contract.gate == "log":
        return {"log_gate": log if contract.l_min is None else log.clamp(min=contract.l_min)}
    if contract.gate == "decay":
        return {"alpha": log.exp()}
    if contract.gate == "preact":
        return {"fgate_preact": f}
    dt = normal(random, *shape) - 2 if contract.dt_softplus else torch.rand(shape, generator=random)
    return {next(name for name, forms in FORMS.items() if contract.gate in forms): dt}


def drawn(kernel: Callable[..., Any], dtype: str, sizes: tuple[int, ...], seed: int) -> Call:
    """Call a fused kernel on normal q, k, v, and pull a normal cotangent back. sizes: B, NH, S, K, V."""
    contract, random = contract_of(kernel), torch.Generator().manual_seed(seed)
    assert isinstance(contract, FusedContract)
    B, NH, S, K, V = sizes
    heads, kind = NH * contract.group, getattr(torch, dtype)
    q, k = normal(random, B, NH, S, K), normal(random, B, NH, S, K)
    if contract.reads == "normalised" or contract.positive:
        q, k = q.abs(), k.abs()
    if contract.erases:
        k = k / k.norm(dim=-1, keepdim=True)
    v = normal(random, B, heads, S, V)
    taken: dict[str, Tensor] = {"q": q, "k": k, "v": v.abs() + 0.1 if contract.positive else v}
    if contract.igate:
        low, high = contract.i_range
        taken["igate_preact"] = normal(random, B, heads, S).clamp(low, high)
    per_gate = (K,) if contract.by_channel else ()
    form = gates(contract, random, B, heads, S, *per_gate)
    taken |= form
    if contract.erases:
        taken["beta"] = torch.rand((B, heads, S), generator=random)
    taken = {name: x.to(kind) for name, x in taken.items()}
    gate_type = getattr(torch, contract.gates_in(dtype))
    taken |= {name: taken[name].to(gate_type) for name in (*form, "igate_preact", "beta") if name in taken}
    more = {"A_log": (heads,), "A": (heads,), "dt_bias": (heads, *per_gate)}
    more |= {"D": (heads,) if contract.skip == "head" else (heads, V)}
    for name in contract.parameters:
        x = normal(random, *more[name])
        taken[name] = -x.exp() if name == "A" else x.abs() if not contract.dt_softplus else x
    if contract.z:
        taken["z"] = normal(random, B, heads, S, V).to(kind)
    return called(kernel, contract, taken, random)


def called(
    kernel: Callable[..., Any], contract: FusedContract, taken: dict[str, Tensor], random: torch.Generator
) -> Call:
    """Call the kernel on these tensors, (B, NH, S, n), in the axes of its contract, and pull back."""
    flat = ("A_log", "A", "dt_bias", "D")
    turned = {
        name: x.transpose(1, 2).contiguous() if contract.layout == "BSHD" and name not in flat else x
        for name, x in taken.items()
    }
    leaves = {name: x.detach().requires_grad_(contract.has_gradients) for name, x in turned.items()}
    result = kernel(*leaves.values())
    output = result[0] if isinstance(result, tuple) else result
    W = normal(random, *output.shape).to(output.dtype)
    if not contract.has_gradients or not output.requires_grad:
        return Call(kernel, turned, output.detach(), W, {})
    found = torch.autograd.grad(output, list(leaves.values()), W, allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaves[name]) if x is None else x
        for name, x in zip(leaves, found, strict=True)
    }
    return Call(kernel, turned, output.detach(), W, gradients)

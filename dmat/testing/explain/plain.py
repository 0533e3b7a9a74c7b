"""The formula in plain torch, in float32 or wider: what a result is shown beside in a message.

D~ is a masked cumulative sum here. A fused kernel's output is E = exp(D~) on all pairs (t, s) at once.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmat.reference import masked_cumulative_sum
from dmat.strategies import Cotangent
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED
from dmat.testing.kernel.fused import Inputs
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.verdict.finding import as_array


def plain_torch(subject: Subject, case: Case, quantity: str) -> Array | None:
    """Return this quantity of the case's plain call by the formula in torch; None if it is no result."""
    if subject.kind == FUSED:
        return _of_fused(cast(FusedSubject, subject), case, quantity)
    if quantity not in ("D~", "di", "df") or (quantity != "D~" and "cotangent" not in case):
        return None
    igate, fgate = (gate.requires_grad_() for gate in case["gates"].dense())
    output = masked_cumulative_sum(igate, fgate)
    if quantity == "D~":
        return as_array(output)
    cotangent: Cotangent = case["cotangent"]
    found = torch.autograd.grad(output, (igate, fgate), cotangent.build(case["gates"]).contiguous())
    return as_array(found[quantity == "df"])[..., 0]


def _of_fused(subject: FusedSubject, case: Case, quantity: str) -> Array | None:
    if set(case) != {"gates", "qkv"}:
        return None
    inputs = subject.inputs(case["gates"], case["qkv"])
    W = subject.cotangent(inputs, case["qkv"])
    leaves = {name: _wide(x).requires_grad_() for name, x in inputs.named.items()}
    output = formula(subject, inputs.with_(**leaves))
    if quantity == "o":
        return as_array(output)
    names = {subject.gradient_name(name): name for name in leaves}
    if quantity not in names:
        return None
    (found,) = torch.autograd.grad(output, leaves[names[quantity]], _wide(W), materialize_grads=True)
    return as_array(found[..., 0] if names[quantity] in "ig" else found)


def _wide(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32)).contiguous()


def formula(subject: FusedSubject, inputs: Inputs) -> Tensor:
    """Return o of these inputs, (B, NH, S, V), as docs/fused.md section 1 writes it."""
    contract, (B, NH, S, K) = subject.contract, inputs.q.shape
    if inputs.g is None:
        assert contract.fixed is not None
        log = torch.as_tensor(contract.fixed(NH), dtype=inputs.q.dtype)[None, :, None].expand(B, NH, S)
    else:
        log = logsigmoid(inputs.g[..., 0]) if contract.gate == "preact" else inputs.g[..., 0]
    past = torch.ones(S, S, dtype=torch.bool).tril()
    windows = torch.where(past.tril(-1), log.unsqueeze(-1), 0.0).cumsum(-2)
    D = windows if inputs.i is None else windows + inputs.i.mT
    products = contract.scale_of(K) * inputs.q @ inputs.k.mT
    if contract.reads == "softmax":
        return torch.softmax((products + D).masked_fill(~past, -math.inf), -1) @ inputs.v
    D = D.masked_fill(~past, -math.inf)
    weight = -log.unsqueeze(-2) if contract.weight == "dt" else 1.0
    if contract.reads == "linear":
        return weight * D.exp() * products @ inputs.v
    m = D.amax(-1, keepdim=True)
    a = weight * (D - m).exp() * products
    below = torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp()) + contract.eps
    return a / (below.detach() if contract.gradient == "truncated" else below) @ inputs.v

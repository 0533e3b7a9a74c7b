"""The formula in plain torch, in float32 or wider: what a result is shown beside in a message.

D~ is a masked cumulative sum here. A fused kernel's output is E = exp(D~) on all pairs (t, s) at once; a
delta rule's, its recurrence.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu, softplus

from dmat.reference import masked_cumulative_sum
from dmat.strategies import Cotangent
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED
from dmat.testing.contract.names import PARAMETERS
from dmat.testing.kernel.fused import LAST, Inputs, as_bhkv
from dmat.testing.law.delta.subject import DeltaSubject
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
    leaves = {name: _wide(x).requires_grad_() for name, x in inputs.named.items()}
    outputs = results(subject, inputs.with_(**leaves))
    if quantity in outputs:
        return _axes(subject, outputs[quantity], quantity)
    names = {subject.gradient_name(name): name for name in leaves}
    if quantity not in names:
        return None
    given = subject.cotangents_of(outputs, inputs, case["qkv"], None)
    cotangents = [_wide(given[name]) for name in outputs]
    leaf = leaves[names[quantity]]
    (found,) = torch.autograd.grad(tuple(outputs.values()), leaf, cotangents, materialize_grads=True)
    return _axes(subject, found, names[quantity])


def _axes(subject: FusedSubject, x: Tensor, name: str) -> Array:
    """Return a result with the axes of a finding: a gate (B, NH, S), a state (B, NH, K, V)."""
    if name in PARAMETERS:
        return as_array(x[None, :, None] if x.ndim == 1 else x[None])
    if name in subject.per_time:
        return as_array(x[..., 0])
    form = subject.state_form if isinstance(subject, DeltaSubject) and name in ("s", LAST) else None
    return as_array(x) if form is None else as_bhkv(as_array(x), form.layout)


def _wide(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32)).contiguous()


def results(subject: FusedSubject, inputs: Inputs) -> dict[str, Tensor]:
    """Return o of these inputs, (B, NH, S, V), and a delta rule's last state if it is judged, by name."""
    if not isinstance(subject, DeltaSubject):
        return {"o": formula(subject, inputs)}
    form = subject.state_form
    swapped = form is not None and form.layout == "BHVK"
    o, last = recurrence(subject, inputs, inputs.s.mT if inputs.s is not None and swapped else inputs.s)
    return {"o": o} if form is None else {"o": o, LAST: last.mT if swapped else last}


def recurrence(subject: FusedSubject, inputs: Inputs, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return o and the last state, (B, NH, K, V), of a delta rule as docs/fused.md section 5 writes it."""
    contract, (B, NH, S, V), K = subject.contract, inputs.v.shape, inputs.q.shape[-1]
    q, k, beta = _of_value_heads(subject, inputs.q), _of_value_heads(subject, inputs.k), inputs.b
    assert beta is not None
    beta = contract.beta_max * torch.sigmoid(beta) if contract.beta_in == "logit" else beta
    if contract.l2norm is not False:
        q, k = (x / (x.square().sum(-1, keepdim=True) + contract.l2norm).sqrt() for x in (q, k))
    log = _log(subject, inputs)
    state = q.new_zeros(B, NH, K, V) if state is None else state
    outputs = []
    for t in range(S):
        decayed = log[:, :, t, :, None].exp() * state
        written = beta[:, :, t] * (inputs.v[:, :, t] - (k[:, :, t, None] @ decayed)[..., 0, :])
        state = decayed + k[:, :, t, :, None] * written[..., None, :]
        outputs.append(contract.scale_of(K) * (q[:, :, t, None] @ state)[..., 0, :])
    return torch.stack(outputs, 2), state


def _log(subject: FusedSubject, inputs: Inputs) -> Tensor:
    """Return the log gates, (B, NH, S, 1), or (B, NH, S, K) by channel."""
    contract, (B, NH, S, _), K = subject.contract, inputs.v.shape, inputs.q.shape[-1]
    if inputs.g is None:
        assert contract.fixed is not None
        fixed = torch.as_tensor(contract.fixed(NH), dtype=inputs.q.dtype)
        return fixed[None, :, None, None].expand(B, NH, S, 1)
    bias = 0.0 if inputs.dt_bias is None else inputs.dt_bias.reshape(NH, 1, K if contract.by_channel else 1)
    scale = _size(inputs)
    match contract.gate:
        case "preact":
            return logsigmoid(inputs.g)
        case "decay":
            return inputs.g.log()
        case "dt":
            return -scale * step(subject, inputs)
        case "bounded":
            assert contract.lower_bound is not None
            return contract.lower_bound * torch.sigmoid(scale * (inputs.g + bias))
    return inputs.g


def _size(inputs: Inputs) -> Tensor:
    """Return exp(A_log), or -A, (NH, 1, 1)."""
    if inputs.A is not None:
        return -inputs.A[:, None, None]
    return torch.ones(1) if inputs.A_log is None else inputs.A_log[:, None, None].exp()


def step(subject: FusedSubject, inputs: Inputs) -> Tensor:
    """Return d, the step of a gate "dt", in the shape of the gates."""
    contract, (_, NH, _, _), K = subject.contract, inputs.v.shape, inputs.q.shape[-1]
    assert inputs.g is not None
    bias = 0.0 if inputs.dt_bias is None else inputs.dt_bias.reshape(NH, 1, K if contract.by_channel else 1)
    d = softplus(inputs.g + bias) if contract.dt_softplus else inputs.g + bias
    return d if contract.dt_limit is None else d.clamp(*contract.dt_limit)


def _of_value_heads(subject: FusedSubject, x: Tensor) -> Tensor:
    """Return q or k with a head for each value head that reads it."""
    group = subject.contract.group
    consecutive = subject.contract.group_order == "consecutive"
    return x.repeat_interleave(group, 1) if consecutive else x.repeat(1, group, 1, 1)


def formula(subject: FusedSubject, inputs: Inputs) -> Tensor:
    """Return o of these inputs, (B, NH, S, V), with its skip and its gate: docs/fused.md sections 1 and 8."""
    o = _sums(subject, inputs)
    if inputs.D is not None:
        o = o + inputs.D.reshape(inputs.D.shape[0], 1, -1) * inputs.v
    return o if inputs.z is None else o * silu(inputs.z)


def _sums(subject: FusedSubject, inputs: Inputs) -> Tensor:
    """Return the sums over a[t, s] v_s, (B, NH, S, V), as docs/fused.md section 1 writes them."""
    contract, (_, _, S, K) = subject.contract, inputs.q.shape
    q, k, log = _of_value_heads(subject, inputs.q), _of_value_heads(subject, inputs.k), _log(subject, inputs)
    past = torch.ones(S, S, dtype=torch.bool).tril()
    if contract.by_channel:
        windows = torch.where(past.tril(-1)[..., None], log.unsqueeze(3), 0.0).cumsum(2)
        D = windows if inputs.i is None else windows + inputs.i.mT[..., None]
        decay = D.masked_fill(~past[..., None], -math.inf).exp()
        return contract.scale_of(K) * torch.einsum("bhtd,bhsd,bhtsd->bhts", q, k, decay) @ inputs.v
    log = log[..., 0]
    windows = torch.where(past.tril(-1), log.unsqueeze(-1), 0.0).cumsum(-2)
    D = windows if inputs.i is None else windows + inputs.i.mT
    products = contract.scale_of(K) * q @ k.mT
    if contract.reads == "softmax":
        return torch.softmax((products + D).masked_fill(~past, -math.inf), -1) @ inputs.v
    D = D.masked_fill(~past, -math.inf)
    weight: Tensor | float = 1.0
    if contract.weight == "dt":
        weight = step(subject, inputs).mT if contract.gate == "dt" else -log.unsqueeze(-2)
    if contract.reads == "linear":
        return weight * D.exp() * products @ inputs.v
    if contract.reads == "normalised":
        a = D.exp() * products
        return a / (a.sum(-1, keepdim=True) + contract.eps) @ inputs.v
    m = D.amax(-1, keepdim=True)
    a = weight * (D - m).exp() * products
    below = torch.maximum(a.sum(-1, keepdim=True).abs(), (-m).exp()) + contract.eps
    return a / (below.detach() if contract.gradient == "truncated" else below) @ inputs.v

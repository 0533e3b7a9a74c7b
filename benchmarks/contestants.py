"""What is timed: the operator, two formulas, each of these compiled, and the floors that none can pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dmat import dtilde
from dmat.reference import masked_cumulative_sum, vlstm_fw_Dtildemat

from .timing import Call

B, NH = 2, 4
COMPILED_UP_TO = 1024  # beyond, the formulas' temporaries and minutes of inductor tell nothing new
FORMULAS = {"formula": vlstm_fw_Dtildemat, "masked sum": masked_cumulative_sum}


def gates(S: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Normal gates (B, NH, S, 1), forget gates around 3: open ones, as they are trained."""
    generator = torch.Generator().manual_seed(S)
    i, f = (torch.randn(B, NH, S, 1, generator=generator) for _ in "if")
    return i.to(device, dtype), (f + 3).to(device, dtype)


def forward(S: int, dtype: torch.dtype, device: str, compiled: bool) -> dict[str, Call]:
    """Calls that write D~, and the floors: a new tensor filled, and one that is there."""
    i, f = gates(S, dtype, device)
    out = torch.empty(B, NH, S, S, dtype=dtype, device=device)
    calls: dict[str, Call] = {
        "torch.full": lambda: torch.full_like(out, -torch.inf),
        "fill": lambda: out.fill_(-torch.inf),
        "dtilde": lambda: dtilde(i, f),
        "dtilde(out=)": lambda: dtilde(i, f, out=out),
    }
    if device != "cpu":
        other = torch.empty_like(out)
        calls["copy"] = lambda: other.copy_(out)
    return calls | {name: partial(formula, i, f) for name, formula in _formulas(S, compiled).items()}


def backward(S: int, dtype: torch.dtype, device: str, compiled: bool) -> dict[str, Call]:
    """Calls of backward alone, with a dense cotangent, and the floor: its sum."""
    i, f = (gate.requires_grad_() for gate in gates(S, dtype, device))
    generator = torch.Generator().manual_seed(S)
    G = torch.randn(B, NH, S, S, generator=generator).to(device, dtype)
    calls: dict[str, Call] = {"G.sum()": lambda: G.sum()}
    for name, function in {"dtilde": dtilde, **_formulas(S, compiled)}.items():
        calls[name] = partial(torch.autograd.grad, function(i, f), (i, f), G, retain_graph=True)
    return calls


def _formulas(S: int, compiled: bool) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = dict(FORMULAS)
    if compiled and S <= COMPILED_UP_TO:
        found |= {f"{name}, compiled": torch.compile(formula) for name, formula in FORMULAS.items()}
    return found


def double_loop(G: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients as the notebook takes them, one (t, s) at a time: G (B, NH, S, S), f (B, NH, S, 1)."""
    S = G.shape[-1]
    di, rectangles = torch.zeros(2, *f.shape[:-1])
    for t in range(S):
        for s in range(t + 1):
            di[..., s] += G[..., t, s]
            rectangles[..., s + 1 : t + 1] += G[..., t, s, None]
    return di.unsqueeze(-1), rectangles.unsqueeze(-1) * torch.sigmoid(-f)

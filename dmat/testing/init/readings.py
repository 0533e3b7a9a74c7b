"""The contracts that a call may show, and the true output under each of them, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmat.strategies.recipes.heads import HeadForm
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.delta import DeltaTruth
from dmat.testing.oracle.fused import Truth
from dmat.testing.oracle.fused_inputs import CallInputs

Values = Mapping[str, Tensor]

SCALES: tuple[float | str, ...] = (1.0, "K**-0.5", "1/K")
NORMS = (False, 0.0, 1e-6, 1e-5)  # what is added to |k|^2
EPS = (0.0, 1e-6, 1e-5, 1e-3)
BOUNDS = (-5.0, -1.0)


def zeros(NH: int) -> Tensor:
    """Return open gates."""
    return torch.zeros(NH, dtype=torch.float64)


def retention(NH: int) -> Tensor:
    """Return the log decays of retention."""
    return torch.log1p(-(2.0 ** (-5.0 - torch.arange(NH).double())))


FIXED = {
    zeros: "lambda NH: torch.zeros(NH).double()",
    retention: "lambda NH: torch.log1p(-(2.0 ** (-5.0 - torch.arange(NH).double())))",
}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a call."""

    B: int = 2
    NH: int = 3
    S: int = 8
    K: int = 4
    V: int = 6


def drawn(sizes: Sizes, gates: str, *, by_channel: bool, seed: int, plain: bool = False) -> dict[str, Tensor]:
    """Return values of every role, in float64: q, k (B, NH, S, K), gates (B, NH, S) or (B, NH, S, K).

    gates: "below 0", or "0 to 1". plain: whether all q and k are of one size. Else rows of q and of k are
    small, so that what is added to a norm or a normaliser shows.
    """
    random = torch.Generator().manual_seed(seed)
    B, NH, S, K, V = sizes.B, sizes.NH, sizes.S, sizes.K, sizes.V

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return 0.1 + 0.8 * torch.rand(*shape, generator=random, dtype=torch.float64)

    q, k, v, i = normal(B, NH, S, K), normal(B, NH, S, K), normal(B, NH, S, V), normal(B, NH, S)
    if not plain:
        q[:, :, 1::3] *= 2.0**-14
        k[:, :, 2::3] *= 2.0**-10
    g = uniform(B, NH, S, K) if by_channel else uniform(B, NH, S)
    bias = uniform(NH, K) if by_channel else uniform(NH)
    return {
        "q": q, "k": k, "v": v, "i": i, "g": -1.5 * g if gates == "below 0" else g, "b": uniform(B, NH, S),
        "A_log": uniform(NH), "A": -uniform(NH), "dt_bias": bias, "D": normal(NH), "z": normal(B, NH, S, V),
    }  # fmt: skip


def readings(roles: set[str], gates: str, *, by_channel: bool) -> Iterator[FusedContract]:
    """Yield every contract under which fn may take tensors of these roles."""
    delta = "b" in roles
    kinds = ("delta",) if delta else ("linear", "mlstm", "softmax", "normalised")
    for reads, gate, scale in itertools.product(kinds, _gates(roles, gates), SCALES):
        for more in _more(reads, roles):
            fields = {"reads": reads, "scale": scale, "igate": "i" in roles, **gate, **more}
            fields |= {"gates_by": "channel"} if by_channel else {}
            fields |= {"skip": "head"} if "D" in roles else {}
            fields |= {"z": True} if "z" in roles else {}
            try:
                yield FusedContract(**fields)
            except ValueError:  # these fields do not stand together
                continue


def _gates(roles: set[str], gates: str) -> Iterator[dict[str, Any]]:
    """Yield the forms of gates."""
    parameters = tuple(name for name in ("A_log", "A", "dt_bias") if name in roles)
    if "g" not in roles:
        yield from ({"gate": "fixed", "fixed": fixed} for fixed in FIXED) if not parameters else ()
        return
    for weight in (None, "dt"):
        for softplus in (True, False):
            dt = {"gate": "dt", "gate_parameters": parameters, "weight": weight, "dt_softplus": softplus}
            yield dt
        if not parameters:
            yield {"gate": "log", "weight": weight}
    for bound in BOUNDS:
        yield {"gate": "bounded", "gate_parameters": parameters, "lower_bound": bound}
    if not parameters:
        yield {"gate": "preact"}
        yield from ({"gate": "decay"},) if gates == "0 to 1" else ()


def _more(reads: str, roles: set[str]) -> Iterator[dict[str, Any]]:
    if reads == "delta":
        for norm, logit in itertools.product(NORMS, (False, True)):
            yield {"l2norm": norm, "beta_in": "logit" if logit else "value"}
            yield from ({"l2norm": norm, "beta_in": "logit", "beta_max": 2.0},) if logit else ()
    elif reads == "normalised":
        yield from ({"eps": eps} for eps in EPS)
    else:
        yield {}


def call_inputs(contract: FusedContract, values: Values) -> CallInputs:
    """Return the oracle's inputs of a call with these values."""
    x = {name: np.asarray(value.double().numpy()) for name, value in values.items()}
    channels = contract.by_channel and not contract.erases
    heads = HeadForm(channels=x["q"].shape[-1]) if channels else HeadForm()
    gates = x["g"]
    if contract.fixed is not None:
        fixed = contract.fixed(x["q"].shape[1]).numpy()
        gates = np.broadcast_to(fixed[None, :, None], x["q"].shape[:3]).copy()
    bias = x["dt_bias"]
    bias = bias[None, :, None] if bias.ndim == 1 else bias[None, :, None, :]
    A = (x["A"] if "A" in contract.of_gates else x["A_log"])[None, :, None]
    A = A[..., None] if contract.by_channel else A
    if channels:
        gates, bias = heads.split(gates)[..., 0], heads.split(bias)[..., 0]
        A = np.repeat(A[..., 0], heads.parts, 1)
    igate = x["i"] if contract.igate else np.zeros(x["q"].shape[:3])
    return CallInputs(
        heads.split(x["q"]),
        heads.split(x["k"]),
        heads.each(x["v"]) if channels else x["v"],
        heads.each(igate) if channels else igate,
        gates,
        beta=x["b"] if contract.erases else None,
        heads=heads,
        gate=contract.gate,
        A_log=A if {"A", "A_log"} & set(contract.of_gates) else 0.0,
        dt_bias=bias if "dt_bias" in contract.of_gates else 0.0,
        D=x["D"][None, :, None, None] if contract.skip else None,
        z=x["z"] if contract.z else None,
    )


def truth(contract: FusedContract, values: Values) -> Truth | DeltaTruth:
    """Return the true results of a call with these values."""
    return (DeltaTruth if contract.erases else Truth)(contract, call_inputs(contract, values))


def output(contract: FusedContract, values: Values) -> Array:
    """Return the true output, (B, NH, S, V)."""
    with np.errstate(all="ignore"):
        return truth(contract, values).o


def dtilde(igate: Tensor, log_gate: Tensor) -> Array:
    """Return the true D~ of log gates, (B, NH, S, S), -inf above the diagonal."""
    q = torch.zeros(*igate.shape, 1, dtype=torch.float64)
    values = {"q": q, "k": q, "v": q, "i": igate, "g": log_gate}
    values |= dict.fromkeys(("A_log", "A", "dt_bias"), torch.zeros(igate.shape[1]).double())
    found = truth(FusedContract(igate=True), values)
    assert isinstance(found, Truth)
    return found.dtilde

"""The bounds of a head are its own: an extreme neighbour changes none of them."""

from __future__ import annotations

import numpy as np
import pytest

from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import Bound, Format, FusedRounding, Rounding
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.contract import FusedContract
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.oracle.fused import Pulled, Truth
from dmat.testing.oracle.fused_inputs import CallInputs

S, K = 5, 4
SCOPES = ("window", 2, "prefix")


def tensors() -> dict[str, Array]:
    """Return the inputs of one batch of two heads. The second head is extreme."""
    random = np.random.default_rng(0)
    drawn = {name: random.standard_normal((1, 2, S, K)) for name in ("q", "k", "v", "W")}
    drawn |= {"igate": random.standard_normal((1, 2, S)), "fgate": -np.abs(random.standard_normal((1, 2, S)))}
    for name, x in drawn.items():
        x[:, 1] *= 2.0 ** (3 if name in "qk" else 30)
    drawn["igate"][:, 1], drawn["fgate"][:, 1] = 80.0, -70.0
    return drawn


def fused_bounds(reads: str, scope: str | int, heads: slice) -> list[Bound]:
    """Return the bounds of the output and of each gradient for these heads."""
    contract = FusedContract(reads=reads, gate="log", igate=reads != "softmax", error_scope=scope)
    q, k, v, W, igate, fgate = (x[:, heads] for x in tensors().values())
    truth = Truth(contract, CallInputs(q, k, v, igate if contract.igate else 0 * igate, fgate))
    bounds, pulled = FusedBounds(truth, contract, FusedRounding.of(contract, "float32")), Pulled(truth, W)
    gates = [bounds.gate(pulled), bounds.igate(pulled)]
    return [bounds.output(), *(bounds.product(name, pulled) for name in "qkv"), *gates]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("reads", ["linear", "mlstm", "softmax"])
def test_fused_bounds_are_of_a_head(reads: str, scope: str | int) -> None:
    """Beside a head of i = 80 and values near 2^30 the first head has the bounds that it has alone."""
    alone, both = (fused_bounds(reads, scope, slice(n)) for n in (1, 2))
    for one, two in zip(alone, both, strict=True):
        for name in ("bound", "overflow", "free"):
            assert np.array_equal(getattr(one, name)[:, 0], getattr(two, name)[:, 0])


@pytest.mark.parametrize("scope", [*SCOPES, "sequence"])
def test_dtilde_bounds_are_of_a_head(scope: str | int) -> None:
    """The same for D~ and its gradients."""
    F32 = Format.of("float32")
    found = []
    for n in (1, 2):
        drawn = {name: x[:, :n] for name, x in tensors().items()}
        G = np.einsum("bhtc,bhsc->bhts", drawn["W"], drawn["v"])
        rounding = Rounding(F32, F32, scope)
        pulled = Backward.of(drawn["fgate"], G, masked_cotangent="ignored", wide=False)
        forward = forward_bound(Forward.of(drawn["igate"], drawn["fgate"], wide=False), rounding)
        gradients = [igate_gradient_bound(pulled, rounding), fgate_gradient_bound(pulled, rounding)]
        found.append([forward, *gradients])
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one.bound[:, 0], two.bound[:, 0])
        assert np.array_equal(one.overflow[:, 0], two.overflow[:, 0])

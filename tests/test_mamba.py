"""Mamba-2 with all of its arguments, sums over n, and kernels that are no kind of operator of dmat."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from dmat.strategies import QKV, Constant, Gates, Normal
from dmat.testing import fused
from dmat.testing.explain.hints_kind import fits_no_kind
from dmat.testing.explain.plain import formula
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.oracle.gate_forms import Step
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require_within

from .zoo.fused_sound import by_windows
from .zoo.mamba import MAMBA, MAMBA_SOUND, mamba_parallel
from .zoo.mamba_mutants import mamba, passed

STYLES = {style.__name__: style for style in MAMBA_SOUND}
GATES = Gates("float32", (2, 2, 5), fgate=Normal(1, 0.5, -1.0))
LOW, HIGH = 0.125, 1.0  # no format rounds them


def subject(kernel: Any, **promises: Any) -> FusedSubject:
    """Return a kernel as a subject. promises: another contract than its own."""
    found = subject_of(
        Implementation.of("tried", fused(kernel, **promises) if promises else kernel), "float32"
    )
    assert isinstance(found, FusedSubject)
    return found


def recipe(own: FusedSubject) -> QKV:
    """Return a dense recipe for this subject."""
    return QKV("dense", own.domain.key_sizes(5)[-1], own.domain.value_size(3, 1), 7, pull=3)


@pytest.mark.parametrize("name", sorted(STYLES))
def test_the_oracle_is_the_formula_in_torch(name: str) -> None:
    """Output and gradients in float64 are those of autograd through the formula, of every input."""
    own = subject(STYLES[name])
    qkv = recipe(own)
    inputs = own.inputs(GATES, qkv)
    leaves = {n: x.double().requires_grad_() for n, x in inputs.named.items()}
    o = formula(own, inputs.with_(**leaves))
    W = own.cotangent(inputs, qkv).double()
    wanted = dict(zip(leaves, torch.autograd.grad(o, list(leaves.values()), W), strict=True))
    gradients = own.pull(GATES, qkv)
    assert np.allclose(gradients.pulled.truth.o, o.detach(), rtol=1e-10)
    for role, x in wanted.items():
        must = own.expected_gradient(gradients, role)
        own_axes = x.reshape(must.value.hi.shape)
        assert np.allclose(must.value.hi, own_axes, rtol=1e-9, atol=1e-12), role


@pytest.mark.parametrize("name", sorted(STYLES))
def test_balls_hold_the_filter(name: str) -> None:
    """Output and gradients in balls agree with float64, at the first and the last entry."""
    own = subject(STYLES[name])
    gradients = own.pull(GATES, recipe(own))
    every = [own.expected(gradients.run), *(own.expected_gradient(gradients, x) for x in gradients.tensors)]
    for must in every:
        for index in ((0,) * must.value.hi.ndim, tuple(n - 1 for n in must.value.hi.shape)):
            ball = must.ball(index)
            assert abs(float(ball.mid()) - must.value.hi[index]) <= 1e-9 * (1 + abs(must.value.hi[index]))


def at_end(kernel: Any, beside: float) -> None:
    """Require the gradient of dt where dt is at the lower end of its limit, times 1 + beside."""
    contract = {
        **MAMBA,
        "dt_limit": (LOW, HIGH),
        "dt_softplus": False,
        "gate_parameters": ("A",),
        "skip": None,
        "z": False,
    }
    own = subject(kernel, **contract, factors="one")
    x = LOW * (1 + beside)
    gates = Gates("float32", (1, 1, 3), fgate=Constant(-x))
    gradients = own.pull(gates, QKV("dense", 4, 3, 5, pull=2))
    require_within(gradients.of("g"), own.expected_gradient(gradients, "g"))


def clamped(way: Any) -> Any:
    """Make a kernel of steps without softplus. way: the clamp."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A: Tensor) -> Tensor:
        d: Tensor = way(dt)
        return (by_windows(A[:, None] * d).exp() * (q @ k.mT) * d[..., None, :]) @ v

    return kernel


def zero_at_end(dt: Tensor) -> Tensor:
    """Clamp dt with the derivative 0 at both ends."""
    return torch.where((dt > LOW) & (dt < HIGH), dt, dt.detach().clamp(LOW, HIGH))


@pytest.mark.parametrize("way", [lambda dt: dt.clamp(LOW, HIGH), zero_at_end])
@pytest.mark.parametrize("beside", [0.0, 2.0**-23, -(2.0**-24), 0.1, -0.1])
def test_either_derivative_is_right_at_a_tie(way: Any, beside: float) -> None:
    """At an end of dt_limit either derivative is right; a step beside it both ways have the one that is."""
    at_end(clamped(way), beside)


def test_the_derivative_from_inside_rounds_at_a_tie() -> None:
    """softplus(dt) is 2 within rounding, and so an end of the limit. A right kernel was accused."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, dt: Tensor, A: Tensor) -> Tensor:
        d = softplus(dt).clamp(0.05, 2.0)
        return (by_windows(A[:, None] * d).exp() * (q @ k.mT) * d[..., None, :]) @ v

    contract = {**MAMBA, "dt_limit": (0.05, 2.0), "gate_parameters": ("A",), "skip": None, "z": False}
    own = subject(kernel, **contract, factors="one")
    for dt in (1.8545866012573242, 1.854586362838745, 1.8545867204666138):
        gradients = own.pull(Gates("float32", (1, 1, 1), fgate=Constant(-dt)), QKV())
        for slope in (0.0, float(torch.sigmoid(torch.tensor(dt))) + 6e-8):
            must = own.expected_gradient(gradients, "g")
            size = float(gradients.of("v").sum() / 2)
            require_within(np.full((1, 1, 1), slope * size), must)


@pytest.mark.parametrize("beside", [-0.1, -(2.0**-24)])
def test_the_gradient_outside_the_limit_is_zero(beside: float) -> None:
    """One step outside dt_limit, a gradient that passes the clamp is out of bound."""
    with pytest.raises(LawBroken):
        at_end(clamped(lambda dt: passed(dt, LOW, HIGH)), beside)


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("x", [0.25, 0.75, 2.0, 30.0])
@pytest.mark.parametrize("direct", [True, False])
def test_a_step_in_balls_is_that_of_the_filter(softplus: bool, x: float, direct: bool) -> None:
    """d, l and their derivatives agree, below, within and above the limit."""
    form, A = Step(softplus, (0.5, 2.5), direct), -1.5 if direct else 0.5
    found = form.values(np.array([x]), np.array([A]), np.array([0.125]), 0.0)
    assert found.weight is not None
    values = (found.log, found.rate, found.of_A, found.weight.weight, found.weight.rate)
    balls = (*form.balls(x, A, 0.125, 0.0), *form.step_balls(x, 0.125))
    assert np.allclose([y[0] for y in values], [float(ball.mid()) for ball in balls], rtol=1e-14)


def test_ends_of_the_limit_are_drawn() -> None:
    """The palettes have dt at each end of its limit, and beside it."""
    own = subject(mamba_parallel)
    steps = [np.logaddexp(0.0, -np.array(palette)) for palette in own.domain.fgate_palettes]
    for end in MAMBA["dt_limit"]:
        assert any((abs(d - end) < 1e-6).any() and (abs(d / end - 1) > 1e-3).any() for d in steps)


def root(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Divide the sums by the root of n, which no kind of operator does."""
    a = by_windows(g).exp() * (q @ k.mT)
    return (a @ v) / a.sum(-1, keepdim=True).abs().sqrt()


def test_a_kernel_of_no_kind_is_said_to_be_none() -> None:
    """No kind gives the output of another operator; one does where a kernel is wrong in one part."""
    promises = {"reads": "linear", "K": (1, 4), "dtypes": ("float32",), "factors": "one"}
    assert fits_no_kind(subject(root, **promises), lambda case: nullcontext())
    twice = mamba(steps=lambda dt, bias: dt * 3)
    assert not fits_no_kind(subject(twice, **MAMBA), lambda case: nullcontext())

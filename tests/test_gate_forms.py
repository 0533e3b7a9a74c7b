"""Gates that a kernel makes itself: their values and derivatives, what a recipe gives, and contracts."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from dmat.strategies import QKV, Constant, Gates, Normal
from dmat.testing import fused
from dmat.testing.contract.names import GATES
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.oracle.gate_forms import GATE_FORMS

from .test_channels import recipe
from .zoo.gate_kernels import GATES_SOUND, STEP

STYLES = {style.__name__: style for style in GATES_SOUND}
LOWEST = -5.0
X, A, BIAS = (0.3, -2.0, 7.0), (0.0, 1.5), (0.0, -0.75)


def log_gate(form: str, x: Tensor, A: Tensor, bias: Tensor) -> Tensor:
    """Return l in plain torch."""
    match form:
        case "preact":
            return logsigmoid(x)
        case "decay":
            return x.log()
        case "dt":
            return -A.exp() * softplus(x + bias, threshold=100)
        case "bounded":
            return LOWEST / (1 + (-A.exp() * (x + bias)).exp())
    return x * 1


def subject(name: str, dtype: str = "float32") -> FusedSubject:
    """Return a right style as a subject."""
    found = subject_of(Implementation.of(name, STYLES[name]), dtype)
    assert isinstance(found, FusedSubject)
    return found


def test_each_form_of_gates_has_a_class() -> None:
    """The names of contracts and the classes of the oracle are the same."""
    assert set(GATES) == set(GATE_FORMS)


@pytest.mark.parametrize("form", sorted(GATES))
@pytest.mark.parametrize(("x", "A", "bias"), list(product(X, A, BIAS)))
def test_values_and_balls_are_those_of_autograd(form: str, x: float, A: float, bias: float) -> None:
    """l, dl / dx and dl / dA_log of the filter and of the balls agree with float64 autograd."""
    x = abs(x) / 8 if form == "decay" else x
    leaves = [torch.tensor(y, dtype=torch.float64, requires_grad=True) for y in (x, A, bias)]
    log = log_gate(form, *leaves)
    rate, of_A = torch.autograd.grad(log, leaves[:2], materialize_grads=True, allow_unused=True)
    wanted = [float(log.detach()), float(rate), float(of_A)]
    first, second, third = (np.array([y]) for y in (x, A, bias))
    values = GATE_FORMS[form].values(first, second, third, LOWEST)
    assert np.allclose([values.log[0], values.rate[0], values.of_A[0]], wanted, rtol=1e-12, atol=1e-300)
    balls = GATE_FORMS[form].balls(x, A, bias, LOWEST)
    assert np.allclose([float(ball.mid()) for ball in balls], wanted, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", sorted(STYLES))
def test_balls_hold_the_true_gradients_of_the_filter(name: str) -> None:
    """The gradients of gates and of their parameters in balls agree with float64."""
    own = subject(name)
    gates = Gates("float32", (2, 2, 3), fgate=Normal(1, 0.5, -1.0))
    gradients = own.pull(gates, recipe(own))
    for role in ("g", "b", *own.contract.parameters):
        if role not in gradients.tensors:
            continue
        expected = own.expected_gradient(gradients, role)
        assert expected.kind.shape == gradients.of(role).shape
        for index in list(product(*map(range, expected.kind.shape)))[::2]:
            middle, ball = expected.value.hi[index], expected.ball(index)
            assert abs(float(ball.mid()) - middle) <= 1e-9 * (1 + abs(middle)), (role, index)


def test_a_recipe_gives_gates_in_the_form_of_the_kernel() -> None:
    """A log gate becomes a decay, and a pre-activation a step of the other sign."""
    gates = Gates("float32", (1, 1, 2), fgate=Constant(-1.0))
    assert subject("decays").gates_of(gates, 1)[1].flatten().tolist() == [float(np.float32(np.exp(-1.0)))] * 2
    assert subject("steps_parallel").gates_of(gates, 1)[1].flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("name", "least"), [("decays", 0.0), ("decays_by_logs", 2.0**-126)])
def test_a_decay_is_0_only_where_a_gate_may_be_closed(name: str, least: float) -> None:
    """Without "-inf" among special_values a kernel may take the logarithm of each decay."""
    gates = Gates("float32", (1, 1, 1), fgate=Constant(-1024.0))
    assert subject(name).gates_of(gates, 1)[1].item() == least


def test_parameters_differ_by_head_and_are_0_in_plain_recipes() -> None:
    """A seeded recipe draws A_log and dt_bias; a plain one, and one of integers, has zeros."""
    own, gates = subject("steps_parallel"), Gates("float32", (1, 3, 2))
    drawn = own.inputs(gates, QKV(K=1, seed=1))
    assert drawn.dt_bias is not None
    assert len(set(drawn.dt_bias.tolist())) == 3
    for qkv in (QKV(K=1), QKV(kind="integers", K=1, V=1, seed=1)):
        plain = own.inputs(gates, qkv)
        assert plain.A_log is not None
        assert not plain.A_log.any()


def test_no_parameter_makes_a_gate_smaller_than_is_promised() -> None:
    """Where the contract says l_min, A_log and dt_bias are at most 0."""
    kernel = fused(STYLES["steps_parallel"], **STEP, l_min=-5.0)
    own = FusedSubject(Implementation.of("bounded_below", kernel), "float32")
    for seed in range(1, 20):
        drawn = own.parameters_of(QKV(K=1, seed=seed), 3, 1)
        assert all((x <= 0).all() for x in drawn.values())


def test_other_parameters_are_another_call() -> None:
    """The truth that is kept of the latest call is not given for other parameters."""
    own, gates = subject("steps_parallel"), Gates("float32", (1, 1, 2))
    inputs = own.inputs(gates, QKV(K=1, seed=1))
    assert inputs.A_log is not None
    truth = own.truth(own.read_inputs(inputs))
    other = own.truth(own.read_inputs(inputs.with_(A_log=inputs.A_log + 1)))
    assert (other.log != truth.log).all()


@pytest.mark.parametrize(
    ("promises", "says"),
    [
        ({"gate": "bounded"}, "expected a lower_bound below 0"),
        ({"lower_bound": -5.0}, "expected a lower_bound below 0"),
        ({"gate": "bounded", "lower_bound": 1.0}, "expected a number below 0"),
        ({"gate": "dt", "special_values": ("-inf",)}, "expected none of it"),
        ({"gate": "dt", "gate_parameters": ("B",)}, "expected"),
        ({"gate": "dt", "gate_parameters": ("A", "A_log")}, "A or A_log, not both"),
        ({"gate": "bounded", "lower_bound": -5.0, "gate_parameters": ("A",)}, "A or A_log, not both"),
        ({"gate": "preact", "dt_limit": (0.0, 1.0)}, 'expected gate="dt"'),
        ({"gate": "log", "dt_softplus": False}, 'expected gate="dt"'),
        ({"gate": "dt", "dt_limit": (1.0, 1.0)}, "0 <= lowest < highest"),
        ({"gate": "preact", "weight": "dt"}, "the weight is -l, or dt"),
        ({"reads": "softmax", "z": True}, 'expected reads="linear"'),
        ({"reads": "softmax", "skip": "head"}, 'expected reads="linear"'),
        ({"skip": "heads"}, "expected one of channel, head"),
        ({"beta_in": "logit"}, 'a field of reads="delta" alone'),
        ({"reads": "delta", "beta_in": "logits"}, "expected one of logit, value"),
    ],
)
def test_a_contract_that_cannot_hold_is_refused_in_one_line(promises: dict[str, Any], says: str) -> None:
    """The line names the field, its value and what was expected."""
    with pytest.raises(ValueError, match="expected") as raised:
        fused(lambda q, k, v, g: v, **promises)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)

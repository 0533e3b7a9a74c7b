"""Gates by channel, and value heads that share a key head: recipes, true values, bounds, and contracts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from dmat.strategies import QKV, Constant, DeltaQKV, Edited, Gates, Normal
from dmat.strategies.recipes.heads import HeadForm
from dmat.testing import fused
from dmat.testing.bounds.fused import FusedBounds
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.oracle.fused import Pulled

from .zoo.channels import CHANNELS_SOUND

STYLES = {style.__name__: style for style in CHANNELS_SOUND}
FORMS = [HeadForm(3, order) for order in ("consecutive", "modulo")]


def subject(name: str, dtype: str = "float32") -> FusedSubject:
    """Return a right style as a subject."""
    found = subject_of(Implementation.of(name, STYLES[name]), dtype)
    assert isinstance(found, FusedSubject)
    return found


def recipe(subject: FusedSubject, **fields: Any) -> QKV:
    """Return a dense recipe of this kind of kernel."""
    more = {"keys": "dense", "state": 1} if subject.contract.erases else {}
    kind = DeltaQKV if more else QKV
    return kind(**{"kind": "dense", "K": 4, "V": 3, "seed": 3, "pull": 5, **more, **fields})


# Heads


@pytest.mark.parametrize("form", FORMS, ids=lambda form: str(form.order))
def test_value_heads_read_the_key_head_that_has_them_as_members(form: HeadForm) -> None:
    """`repeated`, `key_of` and `members` agree, and `gathered` sums over the members."""
    keys = np.arange(2.0)[None]
    read = form.repeated(keys)[0]
    assert [form.key_of(h, 2) for h in range(6)] == read.tolist()
    values = np.arange(6.0)[None] ** 2
    sums = [values[0, form.members(key, 2)].sum() for key in (0, 1)]
    assert form.gathered(values)[0].tolist() == sums
    assert form.ordered(np.broadcast_to(keys[:, None], (1, 3, 2)))[0].tolist() == read.tolist()


def test_a_head_of_channels_is_split_and_joined_again() -> None:
    """`joined` undoes `split`, and `total` sums over the channels of each head."""
    form, x = HeadForm(channels=4), np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    assert form.split(x).shape == (2, 12, 5, 1)
    assert (form.joined(form.split(x)) == x).all()
    assert np.allclose(form.total(form.split(x))[..., 0], x.sum(-1))


# Recipes


def test_the_first_value_head_and_channel_have_the_gates_of_the_recipe() -> None:
    """A recipe names the gates of key heads: an edit shows in one value head and one channel."""
    gates = Gates("float32", (1, 2, 3), fgate=Edited(Constant(-1.0), (((0, 1, 2), -7.0),)))
    _, fgate = subject("grouped_gla").gates_of(gates, 4)
    assert fgate.shape == (1, 4, 3, 4)
    assert (fgate != -1.0).nonzero().tolist() == [[0, 1, 2, 0]]  # modulo: value head 1 reads key head 1


def test_channels_of_a_block_have_one_gate() -> None:
    """Channels of a block of a frame close together, or nothing is exact."""
    gates = Gates("float32", (1, 1, 6), fgate=Normal(3, 1.0, -2.0))
    _, fgate = subject("kda_steps").gates_of(gates, 16, block=4)
    blocks = fgate.reshape(1, 1, 6, 4, 4)
    assert (blocks == blocks[..., :1]).all()
    assert (blocks[..., 0, 0] != blocks[..., 1, 0]).any()


# True values and bounds


@pytest.mark.parametrize("name", sorted(STYLES))
def test_balls_hold_the_true_values_of_the_filter(name: str) -> None:
    """Outputs and all gradients in balls agree with float64, entry by entry."""
    own = subject(name)
    gates = Gates("float32", (1, 2, 3), Normal(2, 0.5), Normal(1, 0.5, -1.0))
    if not own.contract.igate:
        gates = replace(gates, igate=Constant(0.0))
    gradients = own.pull(gates, recipe(own))
    every = [own.expected(gradients.run)]
    every += [own.expected_gradient(gradients, n) for n in gradients.tensors if n != "s"]
    for expected in every:
        for index in list(product(*map(range, expected.kind.shape)))[::7]:
            middle, at = expected.value.hi[index], expected.ball(index)
            assert abs(float(at.mid()) - middle) <= 1e-9 * (1 + abs(middle)), (expected.quantity, index)


def test_a_channel_is_bounded_as_a_head_with_one_gate() -> None:
    """With K = 1 both forms of a contract have the same values and the same bounds."""
    by_channel = subject("gla_steps")
    plain = fused(STYLES["gla_steps"], reads="linear", K=1)
    by_head = FusedSubject(Implementation.of("plain", plain), "float32")
    qkv, gates = recipe(by_head, K=1), Gates("float32", (2, 2, 5), fgate=Normal(1, 0.5, -1.0))
    W, bounded = np.ones((2, 2, 5, 3)), []
    for own in (by_channel, by_head):
        truth = own.truth(own.read_inputs(own.inputs(gates, qkv)))
        bounds, pulled = FusedBounds(truth, own.contract, own.rounding), Pulled(truth, W)
        bounded.append((truth.o, bounds.output().bound, bounds.gate(pulled).bound.reshape(2, 2, 5)))
    assert all((ours == theirs).all() for ours, theirs in zip(*bounded, strict=True))


def test_the_gradient_of_a_shared_key_is_the_sum_over_its_value_heads() -> None:
    """The expected gradient has the shape of the key, and the bounds of its value heads add up."""
    own = subject("grouped_steps")
    gates = Gates("float32", (1, 2, 4), fgate=Constant(-0.5))
    gradients = own.pull(gates, recipe(own))
    expected = own.expected_gradient(gradients, "k")
    assert expected.kind.shape == (1, 2, 4, 4)
    each = gradients.pulled.dk_each
    assert np.allclose(expected.value.hi, each[:, ::2] + each[:, 1::2])
    assert (expected.bound.bound > 0).all()


# Contracts


@pytest.mark.parametrize(
    ("promises", "says"),
    [
        ({"reads": "softmax", "gates_by": "channel"}, 'expected reads="linear" or reads="delta"'),
        ({"gates_by": "channel", "weight": "dt"}, "expected None"),
        ({"gates_by": "channel", "gate": "fixed", "fixed": torch.zeros}, "expected 'log' or 'preact'"),
        ({"gates_by": "time"}, "expected one of channel, head"),
        ({"group": 0}, "group is 0"),
        ({"group_order": "strided"}, "expected one of consecutive, modulo"),
    ],
)
def test_a_contract_that_cannot_hold_is_refused_in_one_line(promises: dict[str, Any], says: str) -> None:
    """The line names the field, its value and what was expected."""
    with pytest.raises(ValueError, match="expected") as raised:
        fused(lambda q, k, v, g: v, **promises)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)

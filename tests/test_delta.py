"""Delta rules: the oracle, its balls, the exact regime, the bounds, and what a state shows of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmat.properties import needs
from dmat.strategies import Constant, DeltaQKV, Edited, Gates
from dmat.strategies.recipes.delta import BLOCKS, KEYS, DeltaHead, frame
from dmat.testing import fused
from dmat.testing.bounds import delta as delta_bounds
from dmat.testing.bounds import delta_inverse
from dmat.testing.bounds.delta_inverse import Inversion
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.delta.exact import Admissible
from dmat.testing.law.delta.subject import DeltaSubject
from dmat.testing.oracle.delta_balls import DeltaBalls
from dmat.testing.registry import law_named

from .zoo.delta_rules import by_powers, by_rows, in_steps, merged_by_halves
from .zoo.delta_sound import DELTA_SOUND

GATES = Gates("float32", (1, 2, 5), fgate=Edited(Constant(-0.5), (((0, 1, 2), -3.0),)))
STYLES = {style.__name__: style for style in DELTA_SOUND}


def subject(name: str, dtype: str = "float32") -> DeltaSubject:
    """Return a right style as a subject."""
    return DeltaSubject(Implementation.of(name, STYLES[name]), dtype)


def recipe(**fields: Any) -> DeltaQKV:
    """Return a recipe of dense keys that begins with a state."""
    return DeltaQKV(
        **{"kind": "dense", "K": 4, "V": 3, "seed": 3, "pull": 5, "keys": "dense", "state": 1, **fields}
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_a_frame_is_orthogonal(block: int) -> None:
    """Q Q' = I, and every entry is 0 or a power of two."""
    Q = frame(np.random.default_rng(block), 16, block)
    assert (Q @ Q.T == np.eye(16)).all()
    assert {abs(x) for x in Q.ravel()} <= {0.0, block**-0.5}


@pytest.mark.parametrize("keys", KEYS)
def test_the_first_times_of_a_longer_sequence_are_those_of_a_shorter_one(keys: str) -> None:
    """A case that is cut after its beginning keeps its values."""
    long, short = (DeltaHead(4, 3, S, keys, "uniform", 1, 0, 0, False, (7, 0, 0)) for S in (9, 4))
    for a, b in zip((*long.q_k_beta, long.values()), (*short.q_k_beta, short.values()), strict=True):
        assert (a[:4] == b).all()


@pytest.mark.parametrize("name", ["delta_steps", "delta_steps_time_first", "delta_chunks_l2norm"])
def test_balls_enclose_the_float64_truth(name: str) -> None:
    """Outputs, last state and all gradients in balls are those in float64, and those of autograd."""
    here = subject(name)
    gradients = here.pull(GATES, recipe(beta="sigmoid"))
    truth, pulled = gradients.pulled.truth, gradients.pulled
    balls = DeltaBalls(here.contract, truth.inputs, 0, 1, pulled.W[0, 1], pulled.W_state[0, 1])
    for index in np.ndindex(5, 3):
        assert abs(float(balls.o(*index)) - truth.o[(0, 1, *index)]) < 1e-13
    for index in np.ndindex(4, 3):
        assert abs(float(balls.last(*index)) - truth.last[(0, 1, *index)]) < 1e-13
    for role, values in pulled.gradients.items():
        for index in np.ndindex(values.shape[2:]):
            assert abs(float(balls.gradient(role, index)) - values[(0, 1, *index)]) < 1e-12
        if role in gradients.tensors:
            assert np.abs(gradients.of(role) - values).max() < 1e-4


def test_an_inverse_is_within_its_error() -> None:
    """Substitution of keys that are all equal is within its error; powers of A, which are huge, are not."""
    A = torch.ones(1, 1, 32, 32).tril(-1) * torch.rand(32, 1, generator=torch.Generator().manual_seed(1))
    exact = np.linalg.inv(np.eye(32) + A.double().numpy())
    error = Inversion(2.0**-24, 0.0, None).error(A.double().numpy(), np.zeros((1, 1, 32, 32)), exact)
    for T in (by_rows(A), merged_by_halves(A, 4, by_rows)):
        assert (np.abs(T.double().numpy() - exact) <= error).all()
    powers = by_powers(A).double().numpy()
    assert not (np.abs(powers - exact) <= error).all()
    of_powers = Inversion(2.0**-24, 0.0, 32).error(A.double().numpy(), np.zeros((1, 1, 32, 32)), exact)
    assert (np.abs(powers - exact) <= of_powers).all()


def test_a_state_shows_its_layout() -> None:
    """A state is B, NH, K, V or B, NH, V, K by what one token writes; a list is opaque."""
    found = {name: subject(name).state_form for name in STYLES}
    assert found["delta_steps"] is not None
    assert found["delta_steps"].layout == "BHKV"
    assert found["delta_steps_time_first"] is not None
    assert found["delta_steps_time_first"].layout == "BHVK"
    assert found["delta_decoding"] is None
    assert found["delta_steps_without_state"] is None

    def square(
        q: Tensor, k: Tensor, v: Tensor, log: Tensor, beta: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        o, last = in_steps(q, k, v, log, beta, None if state is None else state.mT)
        return o, last.mT

    kernel = fused(square, reads="delta", states="state", V_equals_K=True)
    form = DeltaSubject(Implementation.of("square", kernel), "float32").state_form
    assert form is not None
    assert form.layout == "BHVK"


def test_values_of_few_bits_alone_are_admissible() -> None:
    """Of frames every head is exact, of dense keys none."""
    here = subject("delta_chunks")
    for qkv, wanted in ((recipe(kind="integers", keys="pairs", few=3, thin=2), True), (recipe(), False)):
        gradients = here.pull(Gates("float32", (1, 2, 9)), qkv)
        heads = Admissible(gradients.bounds, here._inverse_form).backward(gradients.pulled).heads
        assert (heads == wanted).all()


@pytest.mark.parametrize("doubling", [None, 4])
def test_blocks_of_all_sizes_are_merged_together_as_alone(
    doubling: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of all sizes of blocks at once is the largest of their own."""
    random = np.random.default_rng(5)
    A = np.tril(random.standard_normal((2, 3, 13, 13)), -1) / 4
    T, inversion = (
        np.asarray(np.linalg.inv(np.eye(13) + A), np.float64),
        Inversion(2.0**-24, 2.0**-9, doubling),
    )
    together = inversion.error(A, 1e-6 * np.abs(A), T)
    monkeypatch.setattr(delta_inverse, "TOGETHER", 0)
    assert np.allclose(together, inversion.error(A, 1e-6 * np.abs(A), T), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["delta_steps", "delta_chunks", "delta_powers"])
def test_chunks_have_their_own_parts_together_as_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds do not depend on whether the parts of chunks of one length are computed at once."""
    here, gates = subject(name), replace(GATES, shape=(1, 2, 11))
    gradients = here.pull(gates, recipe())
    together = gradients.bounds
    alone = replace(together)
    of_output, one = together.output().bound, together.of_gradients(gradients.pulled)
    monkeypatch.setattr(delta_bounds, "with_own_parts", lambda chunks: None)
    assert np.allclose(of_output, alone.output().bound, rtol=1e-4, atol=0)
    other = alone.of_gradients(gradients.pulled)
    assert all(np.allclose(one[name].bound, other[name].bound, rtol=1e-4, atol=0) for name in one)


def test_a_delta_rule_without_gates_is_exact_too() -> None:
    """In a frame no output is rounded if the gates are fixed at l = 0; every output is if they are at -1."""
    open_gates = subject("delta_net")
    assert needs.integers(open_gates) is None
    law, domain = law_named("exact", "fused"), open_gates.domain
    gates = [case["gates"] for case in law.cases.ladder(domain)]
    assert gates
    assert not any(gate.values()[1].any() for gate in gates)
    half_open = fused(lambda q, k, v, beta: v, reads="delta", gate="fixed", fixed=lambda NH: -torch.ones(NH))
    reason = needs.integers(DeltaSubject(Implementation.of("half_open", half_open), "float32"))
    assert reason == 'contract: gate="fixed"'


@pytest.mark.parametrize("f", [-16.0, -17.0])
def test_what_float16_loses_of_a_decay_is_counted(f: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row reads only a state decayed to 2^-24, operands in float16 lose what the bound counts."""
    here = subject("delta_narrow", "float16")
    gates = Gates("float16", (1, 1, 8), fgate=Edited(Constant(0.0), (((0, 0, 0), f),)))
    run = here.run(gates, recipe(K=16, keys="dense", beta="zero"))
    error = np.abs(run.o - here.truth(run.inputs).o)
    assert (error <= here.expected(run).bound.bound).all()
    bounds = here.bounds_under(here.truth(run.inputs), here.contract, here.own_rounding)
    monkeypatch.setitem(vars(bounds), "lost", 0 * bounds.lost)
    assert (error > bounds.output().bound).any()

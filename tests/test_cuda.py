"""The expected values of the CUDA laws at scale agree with the oracles at sizes that the oracles reach."""

from __future__ import annotations

import numpy as np
import torch

from dmat.operator import dtilde
from dmat.strategies.cases.dtilde import ENTRIES, HUGE
from dmat.strategies.domain import Domain
from dmat.testing.contract import DTYPES, Contract
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.cuda import forward_and_backward, last_row_cotangent, spaced_gates
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.oracle.integers import exact_rows, integer_dtilde, integer_gradients
from dmat.testing.verdict.finding import as_array


def test_exact_rows_are_those_of_the_integer_oracle() -> None:
    """The rows that are compared past 2^31 entries are D~ of those gates."""
    igate, fgate = (as_array(gate)[..., 0] for gate in spaced_gates((1, 2, 23), torch.float32, "cpu"))
    assert np.array_equal(integer_dtilde(igate, fgate)[0, 1, 5:9], exact_rows(23, slice(5, 9)))


def test_last_row_cotangent_gives_ones_and_times() -> None:
    """G = 1 in the last row alone has di = 1 and df[k] = k."""
    shape = (1, 1, 23)
    _, fgate = spaced_gates(shape, torch.float32, "cpu")
    G = last_row_cotangent(shape, torch.float32, "cpu")
    di, df = integer_gradients(as_array(fgate)[..., 0], as_array(G))
    assert np.array_equal(di[0, 0], np.ones(23))
    assert np.array_equal(df[0, 0], np.arange(23))


def test_forward_and_backward_is_that_of_autograd() -> None:
    """The call that looks at no value returns D~ and both gradients."""
    subject = DtildeSubject(Implementation("dtilde", dtilde, Contract()), "float32")
    gates = spaced_gates((1, 2, 9), torch.float32, "cpu")
    G = last_row_cotangent((1, 2, 9), torch.float32, "cpu")
    output, di, df = forward_and_backward(subject, gates, G)
    assert torch.equal(output, dtilde(*gates))
    assert torch.equal(di, torch.ones_like(di))
    assert torch.equal(df[0, 0, :, 0], torch.arange(9.0))


def test_huge_shapes_pass_2_31_entries_and_stay_exact() -> None:
    """Every shape has more than 2^31 entries, and sums of integers that every dtype holds."""
    for dtype in DTYPES:
        domain = Domain(dtype, Contract().accumulator(dtype))
        shapes = [case["shape"] for case in HUGE.ladder(domain)]
        assert shapes
        for B, NH, S in shapes:
            assert B * NH * S**2 > ENTRIES
            igate, fgate = (as_array(x) for x in spaced_gates((1, 1, S), torch.float64, "cpu"))
            rows = exact_rows(S, slice(S - 1, S))
            held = torch.from_numpy(rows).to(getattr(torch, dtype)).double().numpy()
            assert np.array_equal(held, rows)
            assert np.abs(igate).max() + np.abs(fgate).sum() < 2**30

"""The bounds are those of docs/spec.md section 3, term by term, and no tighter class is looser."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmat.strategies.cases.dtilde import COTANGENTS, GATES
from dmat.strategies.domain import Domain
from dmat.testing.bounds.dtilde import fgate_gradient_bound, forward_bound, igate_gradient_bound
from dmat.testing.bounds.formats import EVALUATION, Bound, Format, Rounding, gamma
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.verdict.finding import as_array

F32, F64, BF16, F16 = (Format.of(name) for name in ("float32", "float64", "bfloat16", "float16"))
SCOPES: tuple[str | int, ...] = ("window", 4, "prefix", "sequence")


def same(computed: float, exact: Fraction | float) -> bool:
    """Whether a bound evaluated in float64 is the exact one, rounded up by no more than EVALUATION."""
    return (
        Fraction(exact) <= Fraction(computed) * Fraction(EVALUATION)
        and Fraction(computed) <= Fraction(exact) * Fraction(EVALUATION) ** 2
    )


def test_units() -> None:
    """u is 2^-53, 2^-24, 2^-8 and 2^-11."""
    assert [f.u for f in (F64, F32, BF16, F16)] == [2.0**-53, 2.0**-24, 2.0**-8, 2.0**-11]


def test_floor() -> None:
    """A store may lose the smallest normal number, in float16 half of the smallest subnormal's double."""
    assert [f.floor for f in (F64, F32, BF16, F16)] == [2.0**-1022, 2.0**-126, 2.0**-126, 2.0**-24]


@pytest.mark.parametrize(
    ("output", "accumulator", "eta"),
    [
        (F64, F64, 2.0**-1022),
        (F32, F32, 2.0**-126),
        (F32, F64, 2.0**-126),  # its loads may flush
        (BF16, F64, 2.0**-126),
        (F16, F32, 2.0**-126),  # float16 is never flushed; its accumulator is
        (F16, F64, 2.0**-1022),
        (F16, F16, 2.0**-14),
    ],
)
def test_eta(output: Format, accumulator: Format, eta: float) -> None:
    """What may be flushed is the accumulator's, or the output's where that is larger and not float16."""
    assert Rounding(output, accumulator).eta == eta


@given(m=st.integers(0, 500), u=st.sampled_from([2.0**-53, 2.0**-24, 2.0**-8, 2.0**-11]))
def test_gamma(m: int, u: float) -> None:
    """gamma(m) = (1 + u)^m - 1, in rational arithmetic."""
    assert same(float(gamma(m, u)), (1 + Fraction(u)) ** m - 1)


def sums_by_hand(logs: list[float], t: int, s: int, scope: str | int) -> tuple[float, int]:
    """Sum |log sigmoid(f)| over the error scope of (t, s), and count n, word by word."""
    size = [-x for x in logs]
    if scope == "window":
        return sum(size[s + 1 : t + 1]), t - s
    if scope == "sequence":
        return 2 * sum(size), len(logs) + 2
    start = 0 if scope == "prefix" else s // int(scope) * int(scope)
    return sum(size[start : t + 1]) + sum(size[start : s + 1]), t - start + 2


@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=50)
@given(data=st.data())
def test_forward_bound(scope: str | int, data: st.DataObject) -> None:
    """e = gamma(n + 8) M + 3 u_a C + (2 n + 4) eta; the bound is (1 + u) e + u |D~| + floor."""
    case = data.draw(GATES.search(Domain("float32", "float32", ("+inf",), max_seq=12)))
    igate, fgate = (as_array(gate)[..., 0] for gate in case["gates"].build())
    truth = Forward.of(igate, fgate, wide=False)
    bound = forward_bound(truth, Rounding(F32, F32, scope)).bound
    for b, h, t, s in np.ndindex(bound.shape):
        if s > t or not np.isfinite(igate[b, h, s]):
            continue
        logs, n = sums_by_hand(truth.terms.log.hi[b, h].tolist(), t, s, scope)
        C, _ = sums_by_hand((-truth.terms.log_condition[b, h]).tolist(), t, s, scope)
        e = float(gamma(n + 8, F32.u)) * (abs(float(igate[b, h, s])) + logs) + 3 * F32.u * C
        e += (2 * n + 4) * 2.0**-126
        size = float(abs(truth.value.hi[b, h, t, s]))
        assert same(float(bound[b, h, t, s]), (1 + F32.u) * e + F32.u * size + F32.floor)


@settings(max_examples=50)
@given(data=st.data())
def test_wider_scopes_have_wider_bounds(data: st.DataObject) -> None:
    """window <= chunk <= prefix <= sequence, forward and for the forget gate's gradient."""
    case = data.draw(COTANGENTS.search(Domain("float32", "float32", ("+inf",), max_seq=12)))
    igate, fgate = (as_array(gate)[..., 0] for gate in case["gates"].build())
    G = as_array(case["cotangent"].build(case["gates"]))
    truth = Forward.of(igate, fgate, wide=False)
    pulled = Backward.of(fgate, G, masked_cotangent="ignored", wide=False)
    past = np.tri(igate.shape[-1], dtype=bool)
    for narrow, wide in pairwise(SCOPES):
        forward = [forward_bound(truth, Rounding(F32, F32, scope)).bound for scope in (narrow, wide)]
        assert (forward[0] <= forward[1] * EVALUATION)[..., past].all()
        df = [fgate_gradient_bound(pulled, Rounding(F32, F32, scope)).bound for scope in (narrow, wide)]
        assert (df[0] <= df[1] * EVALUATION).all()


def one_gradient(f: float, G: list[list[float]], rounding: Rounding) -> tuple[Bound, Bound]:
    """Return the bounds of di and df for one head."""
    S = len(G)
    truth = Backward.of(
        np.full((1, 1, S), f), np.array(G).reshape(1, 1, S, S), masked_cotangent="ignored", wide=False
    )
    return igate_gradient_bound(truth, rounding), fgate_gradient_bound(truth, rounding)


def test_gradient_bounds_count_what_is_not_zero() -> None:
    """At f = 0 with two cotangents in the rectangle of k = 1 and one in column 1, the formulas by hand."""
    di, df = one_gradient(0.0, [[5.0, 9.0, 9.0], [2.0, 0.0, 9.0], [-4.0, 3.0, 0.0]], Rounding(F32, F32))
    e = float(gamma(2 + 16, F32.u)) * 6 * 0.5 + (6 + 2 * 2 + 4) * 2.0**-126
    assert same(df.bound[0, 0, 1], (1 + F32.u) * e + F32.u * 1 + F32.floor)
    e = float(gamma(1 + 4, F32.u)) * 3 + (2 * 1 + 4) * 2.0**-126
    assert same(di.bound[0, 0, 1], (1 + F32.u) * e + F32.u * 3 + F32.floor)
    assert df.bound[0, 0, 0] == pytest.approx(4 * 2.0**-126 + F32.floor, rel=2 * (EVALUATION - 1))


def test_prefix_gradient_bound() -> None:
    """Beyond the window N = 2 nonzeros and A = 2 sum |G| over t >= s, df[0] included."""
    _, df = one_gradient(0.0, [[5.0, 9.0], [2.0, 1.0]], Rounding(F32, F32, "prefix"))
    e = float(gamma(6 + 16, F32.u)) * 16 * 0.5 + (16 + 2 * 6 + 4) * 2.0**-126
    assert same(df.bound[0, 0, 0], (1 + F32.u) * e + F32.u * 0 + F32.floor)


def test_overflow_is_allowed_where_it_must_happen() -> None:
    """A result that is not finite is allowed where 2 M + e reaches the accumulator's largest number."""
    igate, fgate = np.zeros((1, 1, 3)), np.array([[[0.0, -1.5e38, -1.0e38]]])
    overflow = forward_bound(Forward.of(igate, fgate, wide=False), Rounding(F32, F32)).overflow[0, 0]
    assert overflow.tolist() == [[False] * 3, [False, False, False], [True, False, False]]


def test_absolute_gates_pay_per_term() -> None:
    """gates="absolute" adds gamma(8) n to e, and 16 u_a A to that of df."""
    igate, fgate = np.zeros((1, 1, 3)), np.full((1, 1, 3), 100.0)
    truth = Forward.of(igate, fgate, wide=False)
    strict, loose = (
        forward_bound(truth, Rounding(F32, F32, gates=g)).bound for g in ("relative", "absolute")
    )
    added = (1 + F32.u) * 2 * float(gamma(8, F32.u))
    assert same(loose[0, 0, 2, 0], Fraction(strict[0, 0, 2, 0]) / Fraction(EVALUATION) + Fraction(added))

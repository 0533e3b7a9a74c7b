"""The oracles agree with slow arithmetic that shares nothing with them, and within their own slack."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from dmat.strategies.cases.dtilde import COTANGENTS, EXACT_COTANGENTS, GATES
from dmat.strategies.domain import Domain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.oracle.arithmetic import FINITE, KIND_NAMES, Pair, log_sigmoid, sigmoid_minus
from dmat.testing.oracle.dtilde import Backward, Forward
from dmat.testing.oracle.integers import integer_dtilde, integer_gradients
from dmat.testing.verdict.finding import as_array

FINITE_FLOATS = st.floats(-800, 800) | st.floats(-1e-300, 1e-300) | st.floats(-1e300, 1e300)


def decimal_ball(value: Decimal) -> arb:
    """Enclose a Decimal of 500 digits, of which an addition of 1 may have taken 350."""
    return arb(str(value)) * arb(1, 1e-90)


def pair(value: Pair, index: tuple[int, ...]) -> arb:
    """Return one entry of a pair, exactly."""
    return arb(float(value.hi[index])) + arb(float(value.lo[index]))


def gates_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return both gates of a case as float64 (B, NH, S)."""
    igate, fgate = (as_array(gate)[..., 0] for gate in case["gates"].build())
    return igate, fgate


@given(f=FINITE_FLOATS)
def test_balls_of_one_gate(f: float) -> None:
    """log sigmoid(f) = -ln(1 + e^-f) and sigmoid(-f) = 1 / (1 + e^f), by decimal arithmetic."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 500, 10**17, -(10**17)
        x = Decimal(f)
        if abs(f) > 1e5:  # Decimal's exp does not end; there log sigmoid(f) is f, or nothing
            assert f > 0 or log_sigmoid(f).overlaps(arb(f))
            return
        small = (-abs(x)).exp()  # ln(1 + small) by its series where 1 + small would round it away
        log1p = (1 + small).ln() if abs(f) < 800 else small - small * small / 2
        assert log_sigmoid(f).overlaps(decimal_ball((x if f < 0 else Decimal(0)) - log1p))
        assert sigmoid_minus(f).overlaps(decimal_ball(1 / (1 + x.exp())))


@settings(max_examples=200)
@given(a=st.floats(-1e100, 1e100), b=st.floats(-1e100, 1e100), c=st.floats(-1, 1), d=st.floats(-1, 1))
def test_pairs(a: float, b: float, c: float, d: float) -> None:
    """Pairs add and multiply within 2^-102 of the magnitudes, in rational arithmetic."""
    x, y = Pair(np.array(a), np.array(c * a * 2.0**-54)), Pair(np.array(b), np.array(d * b * 2.0**-54))
    exact = [Fraction(float(p.hi)) + Fraction(float(p.lo)) for p in (x, y)]
    total, product = x + y, x * y
    size = abs(exact[0]) + abs(exact[1])
    assert abs(Fraction(float(total.hi)) + Fraction(float(total.lo)) - sum(exact)) <= size / 2**102
    error = Fraction(float(product.hi)) + Fraction(float(product.lo)) - exact[0] * exact[1]
    assert abs(error) <= abs(exact[0] * exact[1]) / 2**100 + Fraction(2) ** -1070


@pytest.mark.parametrize("wide", [False, True])
@settings(max_examples=60)
@given(data=st.data())
def test_forward_within_its_slack(wide: bool, data: st.DataObject) -> None:
    """The fast D~ is within its slack of the balls."""
    case = data.draw(GATES.search(Domain("float64", "float64", max_seq=40)))
    truth = Forward.of(*gates_of(case), wide=wide)
    for index in zip(*np.nonzero(truth.kind == FINITE), strict=True):
        place = tuple(int(n) for n in index)
        error = abs(truth.ball(place) - pair(truth.value, place))
        assert error <= arb(float(truth.slack[place]))


@pytest.mark.parametrize("wide", [False, True])
@settings(max_examples=60)
@given(data=st.data())
def test_backward_within_its_slack(wide: bool, data: st.DataObject) -> None:
    """The fast gradients are within their slack of the balls."""
    case = data.draw(COTANGENTS.search(Domain("float64", "float64", max_seq=20)))
    _, fgate = gates_of(case)
    G = as_array(case["cotangent"].build(case["gates"]))
    truth = Backward.of(fgate, G, masked_cotangent="ignored", wide=wide)
    for index in np.ndindex(fgate.shape):
        di_error = abs(truth.di_ball(index) - pair(truth.di, index))
        assert di_error <= arb(float(truth.di_slack[index]))
        if not math.isnan(fgate[index]):
            df_error = abs(truth.df_ball(index) - pair(truth.df, index))
            assert df_error <= arb(float(truth.df_slack[index]))


def kind_by_hand(i: float, window: list[float]) -> str:
    """What docs/spec.md section 1 says of one entry with s <= t, word by word."""
    has_nan, has_closed = any(map(math.isnan, window)), -math.inf in window
    if math.isnan(i) or has_nan:
        return "NaN or -inf" if has_closed or i == -math.inf else "NaN"
    if i == math.inf:
        return "NaN or -inf" if has_closed else "+inf"
    return "-inf" if has_closed or i == -math.inf else "finite"


@settings(max_examples=100)
@given(data=st.data())
def test_kinds(data: st.DataObject) -> None:
    """Each entry's class is that of the gates that it reads."""
    igate, fgate = gates_of(data.draw(GATES.search(Domain("float32", "float32", max_seq=8))))
    kind = Forward.of(igate, fgate, wide=False).kind
    for b, h, t, s in np.ndindex(kind.shape):
        window = fgate[b, h, s + 1 : t + 1].tolist()
        must = kind_by_hand(float(igate[b, h, s]), window) if s <= t else "-inf"
        assert KIND_NAMES[kind[b, h, t, s]] == must


@settings(max_examples=100)
@given(data=st.data())
def test_integers(data: st.DataObject) -> None:
    """The exact regime's oracle agrees with Python's integers, entry by entry."""
    case = data.draw(EXACT_COTANGENTS.search(Domain("float64", "float64", max_seq=8)))
    igate, fgate = gates_of(case)
    G = np.tril(as_array(case["cotangent"].build(case["gates"])))
    dtilde, (di, df) = integer_dtilde(igate, fgate), integer_gradients(fgate, G)
    for b, h, t, s in np.ndindex(dtilde.shape):
        logs = [int(f) if math.isfinite(f) else 0 for f in fgate[b, h, s + 1 : t + 1]]
        assert dtilde[b, h, t, s] == (int(igate[b, h, s]) + sum(logs) if s <= t else -math.inf)
    for b, h, k in np.ndindex(df.shape):
        assert di[b, h, k] == sum(int(g) for g in G[b, h, k:, k])
        rectangle = sum(int(g) for g in G[b, h, k:, :k].ravel())
        assert df[b, h, k] == (rectangle if math.isfinite(fgate[b, h, k]) else 0)

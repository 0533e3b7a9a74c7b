"""The kinds of operator: each promised one has its class, whose parts agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
from flint import arb

from dmat.testing.contract.names import READS as PROMISED
from dmat.testing.oracle.reads import READS, SUMS, Sums

KINDS = pytest.mark.parametrize("kind", SUMS.values(), ids=list(SUMS))
VALUES = (-3.0, -1.25, -0.75, -0.0, 0.5, 1.5, 40.0)  # none where a slope jumps


def sums(kind: type[Sums]) -> list[float]:
    """Return sums of coefficients that this kind may have: of exponentials, or of q, k >= 0, above 0."""
    return [n for n in VALUES if n > 0 or (kind.scaling.multiplies and not kind.scaling.unsigned)]


def test_each_promised_kind_has_its_class() -> None:
    """What a contract may state as reads= is what the oracle has, in the same order."""
    assert list(READS) == list(PROMISED)


@KINDS
def test_a_normaliser_is_the_same_in_balls(kind: type[Sums]) -> None:
    """N and dN / dn in float64 are those in balls."""
    for n in sums(kind):
        assert kind.normaliser_ball(arb(n)) == arb(float(kind.normaliser(np.array(n))))
        assert kind.slopes(arb(n)) == (arb(float(kind.slope(np.array(n)))),)


@KINDS
def test_a_slope_is_that_of_the_normaliser(kind: type[Sums]) -> None:
    """dN / dn is what N changes by, a step to either side; N itself is 1-Lipschitz, as the bounds have it."""
    step = 2.0**-10
    for n in sums(kind):
        low, high = kind.normaliser(np.array([n - step, n + step]))
        assert (high - low) / (2 * step) == kind.slope(np.array(n))
        assert abs(high - low) <= 2 * step


@KINDS
def test_both_slopes_are_right_where_one_jumps(kind: type[Sums]) -> None:
    """At a jump of dN / dn, and within the error of n of it, either slope may be taken."""
    slopes = set(map(float, kind.slopes(arb(1, 2.0**-20))))
    assert kind.bent(np.array(1 + 2.0**-20), np.array(2.0**-19)) == (len(slopes) > 1)
    assert not kind.bent(np.array(1.5), np.array(2.0**-19))


@KINDS
def test_only_what_normalises_has_a_slope(kind: type[Sums]) -> None:
    """What does not divide has N = 1; what may hold N constant has probes for which N is 1."""
    flat = all(kind.normaliser(np.array(n)) == 1 for n in sums(kind))
    assert flat == (not kind.normalised)
    assert kind.truncates == ("small" in kind.scaling.regimes)

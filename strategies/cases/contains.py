"""Whether a case lies in the domain of its kind, decided from the tensors that the case builds.

The search and the ladder draw cases of the domain only. Shrinking may propose any case, so it asks here:
a case outside the domain would accuse an implementation falsely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from dmat.strategies.domain import Domain
from dmat.strategies.recipes.backgrounds import Array
from dmat.strategies.recipes.cotangents import PLAIN_LAYOUTS, Cotangent, exact_budget, largest_cotangent
from dmat.strategies.recipes.gates import UNIT, Gates, exact_units, special
from dmat.strategies.recipes.layouts import SAME_VALUES
from dmat.strategies.recipes.recipe import Case

Inside = Callable[[Case, Domain], bool]


def has_shape(gates: Gates, domain: Domain) -> bool:
    """Whether the contract allows this dtype and shape."""
    full = domain.zero_length or 0 not in gates.shape
    return gates.dtype == domain.dtype and full and domain.has_length(gates.shape[-1])


def has_values(gates: Gates, domain: Domain) -> bool:
    """Whether the gates hold no special value beyond the declared ones."""
    declared = special(domain.special_values)
    values = np.concatenate([gate.ravel() for gate in gates.values()])
    known = np.isfinite(values) | (np.isnan(values) & np.isnan(declared).any()) | np.isin(values, declared)
    return bool(known.all())


def any_shape(case: Case, domain: Domain) -> bool:
    """Whether the gates of a case are allowed, or its shape if it has no gates.

    For kinds of case that have no test of their own.
    """
    if "gates" in case:
        return any_gates(case, domain)
    B, NH, S = case["shape"]
    return B > 0 and NH > 0 and S > 0 and has_shape(Gates(domain.dtype, (B, NH, S)), domain)


def any_gates(case: Case, domain: Domain) -> bool:
    """Whether the contract allows the gates of the case, of any regime."""
    return has_shape(case["gates"], domain) and has_values(case["gates"], domain)


def exact_gates(case: Case, domain: Domain) -> bool:
    """Whether the gates of the case are of the exact regime (docs/spec.md section 4)."""
    if not any_gates(case, domain):
        return False
    igate, fgate = case["gates"].values()
    closed = np.where(fgate == np.inf, 0.0, fgate)
    if not (np.isfinite(igate).all() and np.isfinite(closed).all()):
        return False
    whole = (igate % UNIT == 0).all() and (closed % UNIT == 0).all()
    negative = ((fgate == np.inf) | (fgate <= -UNIT)).all()
    reach = np.abs(igate).max(-1, initial=0.0) + np.abs(closed).sum(-1)
    return bool(whole and negative and (reach <= UNIT * exact_units(domain.dtype, domain.accumulator)).all())


def cut(case: Case, domain: Domain) -> bool:
    """Whether the gates have elements, and the cut is a multiple of seq_multiple_of from 0 to S."""
    gates, at = case["gates"], case["cut"]
    within = 0 <= at <= gates.shape[-1] and at % domain.seq_multiple_of == 0
    return 0 not in gates.shape and within and any_gates(case, domain)


def window(case: Case, domain: Domain) -> bool:
    """Whether the rival has the shape of the gates, and the given ones of head, t and s are valid indices."""
    gates: Gates = case["gates"]
    rival: Gates = case.get("rival", gates)
    B, NH, S = gates.shape
    (b, h), t, s = case.get("head", (0, 0)), case.get("t", S - 1), case.get("s", 0)
    places = 0 <= b < B and 0 <= h < NH and 0 <= s <= t < S
    layouts = {gates.igate_layout, gates.fgate_layout} <= set(SAME_VALUES)
    alike = rival.shape == gates.shape and any_gates({"gates": rival}, domain)
    return places and layouts and alike and any_gates(case, domain)


def causal(case: Case) -> Array:
    """Return the built G in float64, with zeros above the diagonal (t < s)."""
    G = case["cotangent"].build(case["gates"]).double().numpy()
    return np.where(np.tri(G.shape[-1], dtype=bool), G, 0.0)


def _plain(cotangent: Cotangent, masked: float = 0.0) -> bool:
    """Whether every entry above the diagonal is `masked`. Layouts that expand rows do not ensure that."""
    return cotangent.layout in PLAIN_LAYOUTS and repr(cotangent.masked) == repr(masked)


def any_cotangent(case: Case, domain: Domain) -> bool:
    """Whether the gates are allowed, the masked part is 0, and |G| is at most largest_cotangent."""
    within = any_gates(case, domain) and repr(case["cotangent"].masked) == "0.0"
    return within and bool((np.abs(causal(case)) <= largest_cotangent(domain.dtype)).all())


def exact_cotangent(case: Case, domain: Domain) -> bool:
    """Whether the gates are of the exact regime, and the cotangent is integers whose sum is exact."""
    if not (exact_gates(case, domain) and _plain(case["cotangent"])):
        return False
    G = causal(case)
    whole = np.isfinite(G).all() and (G == np.round(G)).all()
    reach = np.abs(G).sum((-1, -2))
    return bool(whole and (reach <= exact_budget(domain.dtype, domain.accumulator)).all())


def masked_by(values: Callable[[Domain], tuple[float, ...]]) -> Inside:
    """Make the test for cotangents with one of these values everywhere above the diagonal."""

    def inside(case: Case, domain: Domain) -> bool:
        cotangent = case["cotangent"]
        if not any(_plain(cotangent, value) for value in values(domain)):
            return False
        causal_G = np.abs(causal(case))
        return any_gates(case, domain) and bool((causal_G <= largest_cotangent(domain.dtype)).all())

    return inside


def made_of(values: tuple[float, ...]) -> Inside:
    """Make the test for contiguous cotangents of these values, zeros above the diagonal."""

    def inside(case: Case, domain: Domain) -> bool:
        cotangent = case["cotangent"]
        known = np.isin(causal(case), values).all()
        contiguous = cotangent.layout == "contiguous" and _plain(cotangent)
        return bool(known) and contiguous and any_gates(case, domain)

    return inside


def moderate(case: Case, domain: Domain) -> bool:
    """Whether the gates are finite and have elements, and direction and cotangent are moderate.

    Moderate: every magnitude is 0, or from 1e-3 to 3.
    """
    gates, direction, cotangent = case["gates"], case["direction"], case["cotangent"]
    finite = replace(domain, special_values=(), zero_length=False)
    alike = direction.shape == gates.shape and any_gates({"gates": direction}, finite)
    if not (any_gates(case, finite) and alike and repr(cotangent.masked) == "0.0"):
        return False
    sizes = np.concatenate([abs(x).ravel() for x in (*direction.values(), causal(case))])
    least = torch.tensor(1e-3, dtype=getattr(torch, domain.dtype)).item()
    return bool(((sizes == 0) | ((sizes >= least) & (sizes <= 3))).all())

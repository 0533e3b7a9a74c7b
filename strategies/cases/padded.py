"""The cases of the law of padding masks: gates, a recipe of q, k, v, and how many places are padded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from dmat.strategies.cases.dtilde import Cases
from dmat.strategies.cases.fused import DENSE
from dmat.strategies.choose import Draw, between, seed
from dmat.strategies.domain import Domain
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.recipe import Case


def pads_of(B: int, S: int, cut: int, t: int) -> list[tuple[int, int]]:
    """Return (left, right), how many places of each row are padded.

    The first row has cut places on the left and t on the right. The next ones are padded on the right alone,
    in all places, and on the left alone, and so on.
    """
    forms = (cut, min(t, S - cut)), (0, min(t, S)), (S, 0), (cut, 0)
    return [forms[b % len(forms)] for b in range(B)]


def _contiguous(case: Case) -> Case:
    """Return a case with contiguous tensors: what stands in padded places is written into them."""
    gates = replace(case["gates"], igate_layout="contiguous", fgate_layout="contiguous")
    return {"gates": gates, "qkv": replace(case["qkv"], layout="contiguous")}


def _draw(draw: Draw, domain: Domain) -> Case:
    case = _contiguous(DENSE.draw(draw, domain))
    S = case["gates"].shape[-1]
    return {**case, "cut": between(draw, 0, S), "t": between(draw, 0, S), "noise": 1 + seed(draw)}


def _ladder(domain: Domain) -> Iterator[Case]:
    """Yield the canonical cases with one place, some places, and all places padded on either side."""
    for found in DENSE.ladder(cast(FusedDomain, domain)):
        case = _contiguous(found)
        B, _, S = case["gates"].shape
        some = ((1, 0), (0, 1), (S // 3, S // 2)) if S > 1 else ((0, 0),)
        for cut, t in dict.fromkeys(some if B == 1 else some[-1:]):
            for noise in (1, 2):
                yield {**case, "cut": cut, "t": t, "noise": noise}


def _inside(case: Case, domain: Domain) -> bool:
    assert DENSE.inside is not None
    S = case["gates"].shape[-1]
    contiguous = (
        case["qkv"].layout == case["gates"].fgate_layout == case["gates"].igate_layout == "contiguous"
    )
    within = 0 <= case["cut"] <= S and 0 <= case["t"] <= S and case["noise"] > 0
    return contiguous and within and DENSE.inside(case, domain)


PADDED = Cases(_draw, _ladder, _inside)

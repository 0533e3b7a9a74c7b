"""What the cases of a run have tried of the inputs: lengths, heads, sizes of q, k, v, and layouts."""

from __future__ import annotations

from dmat.strategies import QKV, Cotangent, Gates
from dmat.strategies.domain import Domain
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.recipe import Case
from dmat.testing.record import Tried


def note(tried: Tried, case: Case, domain: Domain) -> None:
    """Note the inputs of one case."""
    for part in case.values():
        if isinstance(part, Gates):
            B, NH, S = part.shape
            tried.lengths.add(S)
            tried.heads.add((B, NH))
            tried.layouts.setdefault("gates", set()).update((part.igate_layout, part.fgate_layout))
        elif isinstance(part, Cotangent):
            tried.layouts.setdefault("cotangent", set()).add(part.layout)
        elif isinstance(part, QKV) and isinstance(domain, FusedDomain):
            S = case["gates"].shape[-1]
            tried.K.add(part.K)
            tried.V.add(part.V or domain.value_size(S, part.K))
            tried.products.add(part.kind)
            tried.layouts.setdefault("q, k, v", set()).update(part.layouts)
            tried.layouts.setdefault("cotangent", set()).add(part.pull_layout or "contiguous")

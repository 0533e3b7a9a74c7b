"""The pairs of calls of a D~ kernel that should give the same bits: parts of a batch, and prefixes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmat.strategies.recipes.recipe import Case
from dmat.testing.grade.agreement import Identity, Results
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.verdict.finding import LawBroken

Part = Callable[[Tensor], Tensor]


def compare(subject: DtildeSubject, case: Case, identity: Identity) -> None:
    """Call the kernel on this case whole, in another order and in parts, and note how far apart they are."""
    (b, h), cut = case["head"], case["cut"]
    B, NH, S = case["gates"].shape
    parts: dict[str, Part] = {}
    if B > 1:
        parts["order"] = lambda x: x.flip(0)
        parts["batch"] = lambda x: x[b : b + 1]
    if B * NH > 1:
        parts["head"] = lambda x: x[b : b + 1, h : h + 1]
    if 0 < cut < S:
        parts["prefix"] = lambda x: x[:, :, :cut, :cut] if x.shape[-1] == S else x[:, :, :cut]
    for pair, part in parts.items():
        if identity.wants(pair):
            try:
                identity.note(pair, *_both(subject, case, part, reaches_all=pair == "order"), case)
            except LawBroken as broken:
                identity.failed(pair, "D~", broken, case)


def _both(subject: DtildeSubject, case: Case, part: Part, *, reaches_all: bool) -> tuple[Results, Results]:
    """Return the results of the whole, restricted to the part, and those of the part alone.

    The cotangent is zero outside the part, so that both calls have the same sums; reaches_all: it is not,
    for the part is the whole in another order. All inputs are contiguous.
    """
    igate, fgate = case["gates"].dense()
    G = case["cotangent"].build(case["gates"])
    inside = G if reaches_all else torch.zeros(G.shape, dtype=G.dtype)
    if not reaches_all:
        part(inside).copy_(part(G))
    whole = _results(subject, igate, fgate, inside)
    alone = _results(subject, part(igate), part(fgate), part(G))
    return {name: part(x) for name, x in whole.items()}, alone


def _results(subject: DtildeSubject, *inputs: Tensor) -> Results:
    igate, fgate, G = (x.contiguous().to(subject.device) for x in inputs)
    if not subject.contract.has_gradients:
        return {"D~": subject.forward_of(igate, fgate).output}
    gradients = subject.gradients_of(igate, fgate, G)
    return {"D~": gradients.run.output, **dict(zip(("di", "df"), gradients.tensors, strict=True))}

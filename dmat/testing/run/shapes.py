"""Random cases at shapes that the user names, for the laws of values and of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dmat.strategies.fused_domain import LARGEST_K, FusedDomain
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.shrinking.steps import shaped
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject

Sizes = tuple[int, ...]  # B, NH, S, and K, V of a fused kernel
GRADIENTS = (
    "input_gradient",
    "forget_gradient",
    "product_gradients",
    "beta_gradient",
    "state_gradient",
    "parameter_gradients",
)
LAWS = ("values", "dense", *GRADIENTS)
DRAWS = 4  # for each shape
MOST_DRAWS = 40  # until that many are allowed
MOST_ENTRIES = 2**26  # of D~: the oracle holds some ten arrays of so many float64
LONGEST = 2**13  # the S of one head of so many entries


def cases_at(law: Law, subject: Subject, sizes: Sizes, block: bytes) -> Iterator[Case]:
    """Yield DRAWS random cases of a law at these sizes; none for a law that is not tried at sizes.

    block: the seed of the cases. A shape whose D~ is too large for the oracle gets fewer heads.
    """
    inside, domain = law.cases.inside, subject.domain
    if law.name not in LAWS or inside is None:
        return
    group = getattr(subject.contract, "group", 1)
    width = getattr(domain, "width", 1)
    if getattr(subject.contract, "by_channel", False) and len(sizes) == 5:
        width = max(width, group * sizes[3])
    shape = with_fewer_heads((sizes[0], max(1, sizes[1] // group), *sizes[2:]), width)
    drawn = (law.arguments(law.cases.of_block(block, number, domain)) for number in range(MOST_DRAWS))
    found = 0
    for case in drawn:
        wide = _at(case, shape, sizes)
        if inside(wide, domain):
            found += 1
            yield wide
        if found == DRAWS:
            return


def _at(case: Case, shape: tuple[int, int, int], sizes: Sizes) -> Case:
    wide = shaped(case, shape)
    if "qkv" in wide and len(sizes) == 5:
        K, V = sizes[3:]
        wide = {**wide, "qkv": replace(wide["qkv"], K=K, V=V if wide["qkv"].V else 0)}
    return wide


def with_fewer_heads(sizes: Sizes, width: int = 1) -> tuple[int, int, int]:
    """Return (B, NH, S) of these sizes, with so few batches and heads that D~ has MOST_ENTRIES or fewer.

    width: how many D~ a head has: those of its value heads and channels.
    """
    B, NH, S = sizes[:3]
    most = max(1, MOST_ENTRIES // max(S * S * width, 1))
    heads = min(NH, most)
    return min(B, max(1, most // heads)), heads, S


def not_allowed(subject: Subject, sizes: Sizes) -> str | None:
    """Return which of these sizes cannot be tried, or None."""
    domain, S = subject.domain, sizes[2]
    if S > LONGEST:
        return f"S above {LONGEST}: the truth of one head would not fit into memory"
    if not domain.has_length(S):
        return f"S = {S}"
    if sizes[1] % getattr(subject.contract, "group", 1):
        return f"NH = {sizes[1]}, but a multiple of group"
    if not isinstance(domain, FusedDomain) or len(sizes) < 5:
        return None
    K, V = sizes[3:]
    if not domain.has_key_size(K, S, "dense"):
        stated = f"up to {LARGEST_K}" if domain.contract.K is None else ", ".join(map(str, domain.stated_K))
        return f"K = {K}, but {stated}"
    return None if domain.has_value_size(V) else f"V = {V}"

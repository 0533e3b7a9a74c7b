"""Every law there is, by kind and by name."""

from __future__ import annotations

import importlib
from functools import cache

from dmat.properties import FAMILIES, FUSED_FAMILIES
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.law import Law

# Laws of both kinds stand in the families of D~; the rest of a family of fused kernels stands in its own.
MODULES = {
    DTILDE: FAMILIES,
    FUSED: [name for family in FUSED_FAMILIES for name in (family.removeprefix("fused_"), family)],
}


def laws(kind: str = DTILDE) -> list[Law]:
    """Return every law of D~, or of "fused" kernels: family by family, each in the order of its file."""
    found = []
    for family in MODULES[kind]:
        module = importlib.import_module(f"dmat.properties.test_law_{family}")
        stated = [x for found in vars(module).values() for x in getattr(found, "laws", ())]
        found += [law for law in stated if isinstance(law, Law) and law.kind == kind]
    return found


@cache
def law_named(name: str, kind: str = DTILDE) -> Law:
    """Return the law of this name, of D~ or of "fused" kernels. KeyError where there is none."""
    return {law.name: law for law in laws(kind)}[name]

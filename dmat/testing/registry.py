"""The registry of all laws, by kind of kernel and by name, and the order in which laws are tried."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache

from dmat.properties import FAMILIES, FUSED_FAMILIES
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.contract.names import DTYPES
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.select import Chosen
from dmat.testing.law.law import Law

# A law of both kinds stands in the module of the D~ family. A law of fused kernels alone stands in the
# module of the fused family.
MODULES = {
    DTILDE: FAMILIES,
    FUSED: [
        name
        for family in FAMILIES
        for name in (family, f"fused_{family}")
        if name in (*FAMILIES, *FUSED_FAMILIES)
    ],
}


def laws(kind: str = DTILDE) -> list[Law]:
    """Return every law of a kind ("D~" or "fused"), family by family, in the order of each file."""
    found = []
    for family in MODULES[kind]:
        module = importlib.import_module(f"dmat.properties.test_law_{family}")
        stated = [x for found in vars(module).values() for x in getattr(found, "laws", ())]
        found += [law for law in stated if isinstance(law, Law) and law.kind == kind]
    return found


@cache
def law_named(name: str, kind: str = DTILDE) -> Law:
    """Return the law of this name and kind ("D~" or "fused"). Raises KeyError if there is no such law."""
    return {law.name: law for law in laws(kind)}[name]


@cache
def _ranks(kind: str) -> dict[str, int]:
    """Return the rank of each law of a kind by the law's name."""
    in_order = sorted(laws(kind), key=lambda law: law.cost == "costly")  # stable: keeps the registry's order
    return {law.name: number for number, law in enumerate(in_order)}


def names_of_laws() -> dict[str, list[str]]:
    """Return the names of all laws by kind, in order."""
    return {kind: [law.name for law in laws(kind)] for kind in (DTILDE, FUSED)}


def families() -> dict[str, str]:
    """Return the family of each law by the law's name. A law of fused kernels stands in the family of D~."""
    found: dict[str, str] = {}
    for kind in (DTILDE, FUSED):
        for law in laws(kind):
            family = law.check.__module__.rpartition("test_law_")[2]
            found.setdefault(law.name, family.removeprefix("fused_"))
    return found


def first_key(law: Law, dtype: str, part: str) -> tuple[bool, bool, int, int]:
    """Return the sort key of a law's part for --first: ladders, cheap, by dtype, by rank; then searches."""
    ladder = part == "ladder"
    return (not ladder, law.cost == "costly", DTYPES.index(dtype) if ladder else 0, rank(law))


def tasks(chosen: Sequence[Chosen], *, first: bool) -> list[tuple[Law, Implementation, str, str, str]]:
    """Return (law, implementation, dtype, device, part) for every part of every law, in the order to try.

    first: all ladders before all searches (`first_key`). Otherwise each law is one part, and costly laws come
    first, so that no process ends long after the others.
    """
    parts = ("ladder", "search") if first else ("all",)
    every = [
        (law, implementation, dtype, device, part)
        for part in parts
        for implementation, dtype, device in chosen
        for law in laws(implementation.kind)
    ]
    if first:
        return sorted(every, key=lambda one: first_key(one[0], one[2], one[4]))
    return sorted(every, key=lambda one: one[0].cost != "costly")


def rank(law: Law) -> int:
    """Return the rank of a law among the laws of its kind, 0 for the law that is tried first.

    Cheap laws stand before costly ones, and laws of one cost in the order of the registry, which begins with
    the laws that reject most wrong kernels.
    """
    return _ranks(law.kind)[law.name]

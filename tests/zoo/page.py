"""docs/laws.md, made from the laws themselves and the mutants of the zoo: `python -m tests.zoo.page`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import settings

from dmat.testing.bounds.named import NamedBound
from dmat.testing.contract import DTILDE, FUSED
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws
from dmat.testing.run import shrink

from .fused_mutants import FusedMutant
from .mutants import MUTANTS, Mutant
from .trial import first_rejection, subjects
from .wrong import FUSED_MUTANTS

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "laws.md"
FOR_PAGE = [settings(max_examples=n, database=None, derandomize=True) for n in (50, 2000)]

RANDOM = ("repeatable",)

HEAD = """# The laws

Made from the laws' own docstrings and the zoo of wrong kernels by `make docs`; do not edit.

Symbols, as everywhere: gates `igate_preact` i and `fgate_preact` f, (B, NH, S, 1); D~[t, s] row t of reading,
column s of writing; l[k] = log sigmoid(f[k]); window(t, s) = {s+1, .., t}; G[t, s] = dL/dD~, the cotangent;
di, df the gradients; J the derivative of D~ in both gates, v a direction to move them in. u is the unit
roundoff of the dtype, u_a that of the format summed in, gamma(m) = (1 + u_a)^m - 1; M, A, C, N, eta and floor
as in docs/spec.md section 3, which every bound cites. "zero" means bit for bit. A law that a contract does
not promise is not run.
"""


FUSED_HEAD = """
# The laws of fused kernels

Of operators on q, k, v and gates, in which D~ stands: `dmat.testing.fused`. Symbols, bounds: docs/fused.md.
Those with the name of a law above say the same of the output o, (B, NH, S, V), as that one of D~.
"""


def page() -> str:
    """Return the whole page."""
    rejected = {DTILDE: [(m.law, m.name, m.museum) for m in MUTANTS]}
    rejected[FUSED] = [(m.law, m.name, m.museum) for m in FUSED_MUTANTS]
    parts = [HEAD]
    for of in (DTILDE, FUSED):
        parts += [FUSED_HEAD] if of == FUSED else []
        for family in dict.fromkeys(map(_family, laws(of))):
            parts.append(f"\n## {family.replace('_', ', ').capitalize()}\n")
            parts += [section(entry, rejected[of]) for entry in laws(of) if _family(entry) == family]
    return "\n".join(parts)


def _family(entry: Law) -> str:
    family = entry.check.__module__.rpartition("test_law_")[2]
    return f"fused_{family.removeprefix('fused_')}" if entry.kind == FUSED else family


def section(entry: Law, rejected: list[tuple[str, str, str]]) -> str:
    """Return one law's entry: statement, why, bound, needs, mutant, published bug.

    rejected: of each mutant the law that must reject it, its name, and what it restates.
    """
    parts = inspect.cleandoc(entry.text).split("\n\n", 1)[1]
    why, _, bound = " ".join(parts.removeprefix("Why: ").split()).partition(" Bound: ")
    lines = [f"### {entry.name}", "", entry.statement, "", f"- Why: {why}", f"- Bound: {bound}"]
    lines += [f"- Law: {_place(entry.check)}.", f"- Bound by: {', '.join(map(_named, entry.bound))}."]
    needs = [(need.__doc__ or "").rstrip(".") for need in entry.needs]
    if needs:
        lines.append(f"- Applies where: {'; '.join(text[:1].lower() + text[1:] for text in needs)}.")
    return "\n".join([*lines, *_rejects(entry, rejected), ""])


def _link(file: str) -> str:
    """Return a link from docs/laws.md to a file of the repository."""
    return f"[{file}](../{file})"


def _place(function: Callable[..., Any]) -> str:
    """Return the name of a function, and a link to its file."""
    function = inspect.unwrap(function)
    file = Path(inspect.getfile(function)).resolve().relative_to(ROOT)
    return f"`{function.__qualname__}` in {_link(file.as_posix())}"


def _named(bound: NamedBound) -> str:
    return bound if isinstance(bound, str) else _place(bound)


def _rejects(entry: Law, rejected: list[tuple[str, str, str]]) -> list[str]:
    """Return what is said of the mutant: what it is, what it restates, and the case that shows it."""
    (first, museum), *others = [(name, museum) for law, name, museum in rejected if law == entry.name]
    of_delta = "delta" if first.startswith("delta_") else "fused"
    zoo = f"tests/zoo/{of_delta}_mutants.py" if entry.kind == FUSED else "tests/zoo/mutants.py"
    lines = [f"- Rejects: `{first}` in {_link(zoo)}, {museum}."]
    lines += [f"  Also: {', '.join(f'`{name}`' for name, _ in others)}."] if others else []
    if entry.kind == FUSED:
        return [*lines, *_case_of_fused(entry, next(m for m in FUSED_MUTANTS if m.name == first))]
    return [*lines, *_case(entry, next(m for m in MUTANTS if m.name == first))]


def _case_of_fused(entry: Law, mutant: FusedMutant) -> list[str]:
    return _smallest(entry, subjects(mutant.kernel, mutant.name), mutant.name)


def _case(entry: Law, mutant: Mutant) -> list[str]:
    if mutant.device == "cuda" and not torch.cuda.is_available():
        return ["- Smallest case: found on a CUDA device only."]
    if entry.name in RANDOM:
        return ["- Smallest case: none is kept, for the kernel draws lots."]
    if entry.cost == "costly":
        return ["- Smallest case: none is kept, for each costs a compilation or a process."]
    return _smallest(entry, subjects(mutant.implementation, mutant.name), mutant.name)


def _smallest(entry: Law, wrong: list[Subject], name: str) -> list[str]:
    """Return the smallest case on which the law rejects one of these."""
    with (
        patch.object(shrink, "MOST_SECONDS", float("inf")),
        torch.random.fork_rng(),
    ):  # on any machine the same
        torch.manual_seed(0)
        found = first_rejection(entry, wrong, FOR_PAGE)
    if found is None:
        raise RuntimeError(f"{entry.name} does not reject {name}")
    return ["- Smallest case:", "", *(f"      {line}" for line in found.case.splitlines())]


def main() -> None:
    """Write the page."""
    FILE.write_text(page())


if __name__ == "__main__":
    main()

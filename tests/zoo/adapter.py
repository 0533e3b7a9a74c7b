"""All that the stored verdicts need of dmat: to be adapted here when modules move or names change.

What is stored (tests/zoo/verdicts.py) holds names of kernels and laws, cases as case.json has them, and what
`said` returns.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import settings

from dmat.testing.case_file import case_of, decoded, encoded, read
from dmat.testing.counterexample.attempt import tried as replayed
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.load import load
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict import require
from dmat.testing.verdict.finding import Finding, LawBroken

from .delta_sound import DELTA_SOUND
from .fused_sound import FUSED_SOUND
from .mutants import MUTANTS
from .sound import SOUND
from .trial import first_rejection
from .wrong import FUSED_MUTANTS

ROOT = Path(__file__).parents[2]
EXAMPLES = (
    "cumsum_difference.py:dtilde",
    "cumsum_difference.py:dtilde_declared",
    "masked_cumsum.py:dtilde",
    "wrong_gradient.py:dtilde",
    "fused/chunkwise.py:linear_attention",
    "fused/gated_deltanet.py:gated_deltanet",
    "fused/mlstm.py:mlstm",
    "fused/wrong_carry.py:linear_attention",
)
OWN_LAW = {f"wrong.{m.name}": m.law for m in MUTANTS} | {
    f"fused_wrong.{m.name}": m.law for m in FUSED_MUTANTS
}


@cache
def kernels() -> dict[str, Any]:
    """Return every kernel by a name that no move of modules changes: "wrong.carry_forgotten"."""
    found = {f"right.{x.__name__}": x for x in SOUND} | {f"wrong.{m.name}": m.implementation for m in MUTANTS}
    found |= {f"fused_right.{x.__name__}": x for x in [*FUSED_SOUND, *DELTA_SOUND]}
    found |= {f"fused_wrong.{m.name}": m.kernel for m in FUSED_MUTANTS}
    names = {x: x.replace(".py:", ".").replace("/", ".") for x in EXAMPLES}
    return found | {f"example.{name}": load(f"{ROOT}/examples/{x}").function for x, name in names.items()}


@cache
def implementation(kernel: str) -> Implementation:
    return Implementation.of(kernel, kernels()[kernel])


def kind(kernel: str) -> str:
    """Return what it computes: "D~", or "fused"."""
    return implementation(kernel).kind


def dtypes(kernel: str) -> tuple[str, ...]:
    return implementation(kernel).contract.dtypes


def subject(kernel: str, dtype: str) -> Subject:
    """Return what a law is asked of: a kernel in a dtype, on the CPU."""
    return subject_of(implementation(kernel), dtype)


@cache
def laws_of(kind: str) -> dict[str, Law]:
    """Return the laws of this kind of kernels that cost no compilation and no process, by name."""
    return {law.name: law for law in laws(kind) if law.cost == "cheap"}


def applies(law: Law, to: Subject) -> bool:
    return law.not_applicable(to) is None


def ladder(law: Law, of: Subject) -> list[str]:
    """Return the law's ladder, each case encoded."""
    return _ladder(law, of.domain)


def drawn(law: Law, of: Subject, number: int) -> list[str]:
    """Return ten random cases, each encoded; another number, other cases."""
    return _drawn(law, of.domain, number)


@cache
def _ladder(law: Law, domain: Any) -> list[str]:
    return [encoded(law.arguments(case)) for case in law.cases.ladder(domain)]


@cache
def _drawn(law: Law, domain: Any, number: int) -> list[str]:
    randoms = (Random(f"{law.name} {number} {n}") for n in range(10))
    return [encoded(law.arguments(law.cases.draw(random, domain))) for random in randoms]


@cache
def _decoded(line: str) -> dict[str, Any]:
    return decoded(line)


_forbidden: dict[Any, bool] = {}  # by law, domain and case, which many kernels share


def is_forbidden(law: Law, of: Subject, line: str) -> bool:
    """Whether the contract does not let this law be tried on this case."""
    key = law, of.domain, line
    if key not in _forbidden:
        _forbidden[key] = law.why_not(of, law.arguments(_decoded(line))) is not None
    return _forbidden[key]


_ratios = require._ratios
_passed: list[float] = []


def _noting_ratios(computed: Any, expected: Any) -> tuple[Any, Any]:
    """Take the place of the function by which every law compares a tensor with its bound; note the worst."""
    ratio, error = _ratios(computed, expected)
    _passed.append(float(ratio.max(initial=0.0, where=~np.isnan(ratio))))
    return ratio, error


require._ratios = _noting_ratios


def said(law: Law, of: Subject, line: str) -> dict[str, Any]:
    """Return what the law says of the kernel on an encoded case, and whether the case is a forbidden one.

    ratio: the largest error over bound that the law notes in its report; any: that of all that it compared.
    """
    torch.default_generator.manual_seed(0)
    _passed.clear()
    of.worst, outside = None, {}
    try:
        outside = {"forbidden": True} if is_forbidden(law, of, line) else {}
        law.check(of, **law.arguments(_decoded(line)))
    except Refused as refusal:
        return {"outcome": "refused", "why": re.split(r"[:\d]", str(refusal))[0].strip(), **outside}
    except LawBroken as broken:
        return {"outcome": "broken", **as_stored(broken.finding), **outside}
    except Exception as error:  # a law at a loss, or a case that is none any more
        return {"outcome": "error", "why": type(error).__name__, **outside}
    return {"outcome": "held", "ratio": of.worst, "any": max(_passed, default=None), **outside}


def as_stored(finding: Finding) -> dict[str, Any]:
    """Return a broken entry: quantity, index, what stood there and what should, error over bound."""
    kinds = [_kind(text) for text in (finding.computed, finding.exact)]
    entry = {"quantity": finding.quantity, "index": list(finding.index), "found": kinds[0], "exact": kinds[1]}
    if finding.error is None or finding.allowed is None:
        return {**entry, "ratio": None}
    return {**entry, "ratio": finding.error / finding.allowed if finding.allowed else math.inf}


def _kind(text: str) -> str:
    """Return "number" for any finite one, the class alone of an error that was raised, else the text."""
    try:
        return "number" if math.isfinite(float(text)) else text
    except ValueError:
        return text.partition(":")[0] if text.startswith("raised") else text


def keep_folder(kernel: str, law: Law, home: Path) -> Path | None:
    """Search for the smallest case on which the law rejects the kernel; return the folder that holds it."""
    wrong = {dtype: subject(kernel, dtype) for dtype in dtypes(kernel)}
    profile = settings(max_examples=100, derandomize=True, database=None)
    found = first_rejection(law, list(wrong.values()), [profile])
    if found is None or not found.failure.reproducible:
        return None
    return explained_and_kept(law, wrong[found.dtype], found.failure, Session(folder=home))[1]


def replay_folder(folder: Path, kernel: str) -> list[str]:
    """Return what a replay says of a counterexample folder: its status, and the first line of why."""
    file = read(folder / "case.json")
    torch.manual_seed(file.seed)
    case = case_of(file.case, folder)
    status, text = replayed(file.law, implementation(kernel), file.dtype, file.device, case)
    return [status, text.splitlines()[0]]

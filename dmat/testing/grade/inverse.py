"""How a delta rule inverts I + A, as a black box: by substitution or by powers of A, and in which format.

The bounds of substitution and of powers are not ordered, so a class implies no other. The classes are tried
one after another, each on all cases, until one stands. Keys overlap in the cases: over many rows, the sums
over paths that bound the error of powers grow as 2^n and T does not, so powers show there; over a few rows a
narrow format shows. A format that all other products have as well (multiplies_in) does not show.
docs/fused.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dmat.strategies import Constant, Gates
from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.qkv import DeltaQKV, is_qkv
from dmat.strategies.recipes.recipe import Case, shown
from dmat.testing.bounds.formats import FusedRounding, format_of
from dmat.testing.contract import TF32, FusedContract, relaxations
from dmat.testing.grade.dtilde import Loss
from dmat.testing.grade.result import InverseClass, InverseResult, InverseTried
from dmat.testing.kernel.fused import FusedRun
from dmat.testing.law.fused import FusedSubject
from dmat.testing.processes import Send
from dmat.testing.verdict.finding import LawBroken
from dmat.testing.verdict.require import require_within

KEYS = ("equal", "near", "signs", "correlated", "dense")
BETAS = ("two", "up to two", "one", "sigmoid", "uniform")
HEADS = (2, 2)  # four draws in one call
SHORT = (2, 4, 8)
LONGEST = 64  # rows, where the whole sequence is one chunk
WIDEST = 16  # channels of keys; keys of one channel are too simple: their products do not round
OPEN = 1024.0  # a pre-activation at which nothing is forgotten


def rows_of(contract: FusedContract, domain: FusedDomain) -> int:
    """Return the rows of a chunk that is inverted; 1 for a kernel in steps, which inverts nothing."""
    if contract.error_scope == "prefix" or contract.factors == "one":
        return max(S for S in domain.all_lengths if S <= max(LONGEST, domain.all_lengths[0]))
    return contract.chunk or 1


def classes(contract: FusedContract, dtype: str, n: int) -> list[InverseClass]:
    """Return the classes for chunks of n rows: first those in the accumulator's format, then narrower ones.

    Of each format, substitution comes first, then powers within ever larger blocks. Blocks of n rows or more
    are one class.
    """
    sizes = {
        size for size in (contract.doubling, *relaxations(FusedContract, "doubling")) if size is not None
    }
    blocks = [*sorted(size for size in sizes if size < n), *sorted(size for size in sizes if size >= n)[:1]]
    wide = format_of(contract.accumulator(dtype))
    named = {wide.name, contract.inverts(dtype), dtype, *([TF32] if wide.name == "float32" else [])}
    formats = sorted((format_of(name) for name in named), key=lambda form: form.u)
    narrow = [form.name for form in formats if form.u >= wide.u]
    return [InverseClass(block, name) for name in narrow for block in (None, *blocks)]


def telling(domain: FusedDomain, n: int) -> Iterator[Case]:
    """Yield cases in which nothing is forgotten, of short lengths and of a whole chunk of n rows.

    In a few rows no powers have grown, and a narrow format shows; in a whole chunk the powers show.
    """
    for wanted in sorted({*SHORT, n}):
        if S := next((S for S in domain.all_lengths if min(wanted, n) <= S), None):
            yield from _of_length(domain, S)


def _of_length(domain: FusedDomain, S: int) -> Iterator[Case]:
    sizes = domain.key_sizes(S)
    K = max((K for K in sizes if K <= WIDEST), default=sizes[0])
    opened = OPEN if domain.contract.from_preact else 0.0
    gates = Gates(domain.dtype, (*HEADS, S), Constant(0.0), Constant(max(domain.least, opened)))
    V = 0 if domain.contract.V_equals_K else domain.value_size(3, K)
    for beta in BETAS:
        for keys in KEYS:
            qkv = DeltaQKV("dense", K, V, seed=1, pull=1, keys=keys, beta=beta)
            if domain.has_gates(gates) and is_qkv(qkv, gates, domain):
                yield {"gates": gates, "qkv": qkv}


@dataclass(frozen=True)
class _Called:
    """A call, and the result that is judged. run: None if there is none; broken: why."""

    case: Case
    run: FusedRun | None
    broken: LawBroken | None = None


def grade_inverse(subject: FusedSubject, contract: FusedContract, send: Send) -> InverseResult | None:
    """Return which classes the output survives under a contract, up to the first that stands.

    None for a kernel in steps. contract: the chunk and the formats, which are taken as they are.
    """
    n = rows_of(contract, subject.domain)
    if n == 1:
        return None
    calls = [_called(subject, case, send) for case in telling(subject.domain, n)]
    tried: list[InverseTried] = []
    for one in classes(contract, subject.dtype, n):
        tried.append(_tried(subject, contract, one, calls))
        if tried[-1].stands:
            break
    stands = tried[-1:] if tried and tried[-1].stands else []
    strictest = InverseClass(stands[0].doubling, stands[0].inverse_in) if stands else None
    scope, wide = contract.error_scope, contract.accumulator(subject.dtype)
    fell = [one for one in tried if not one.stands]
    return InverseResult(strictest, scope, wide, len(calls), [*stands, *fell]) if calls else None


def _called(subject: FusedSubject, case: Case, send: Send) -> _Called:
    send(shown(case))
    try:
        return _Called(case, subject.run(case["gates"], case["qkv"]))
    except LawBroken as broken:
        return _Called(case, None, broken)


def _tried(
    subject: FusedSubject, contract: FusedContract, one: InverseClass, calls: list[_Called]
) -> InverseTried:
    """Judge all calls by one class, up to the first that it does not hold for."""
    forms = {subject.dtype: one.inverse_in}
    promised = replace(contract, doubling=one.doubling, inverse_in=forms)
    rounding, worst = FusedRounding.of(promised, subject.dtype), 0.0
    for call in calls:
        try:
            if call.broken is not None or call.run is None:
                raise call.broken or AssertionError
            with np.errstate(all="ignore"):
                expected = subject.output_of(subject.truth(call.run.inputs), promised, rounding)
            worst = max(worst, require_within(call.run.o, expected))
        except LawBroken as broken:
            loss = Loss(broken.finding, shown(call.case))
            lines = "\n".join(loss.finding.lines())
            return InverseTried(one.doubling, one.inverse_in, False, loss.times, lines, loss.case)
    return InverseTried(one.doubling, one.inverse_in, True, worst)

"""Say that no kind of operator of dmat gives the output: it is another one, or wrong everywhere.

The tries are the plainest calls: one token, gates of zeros, q, k, v of ones times a power of two, parameters
of zeros. A kernel with a bug in its gates, its chunks, its heads or its strides is right there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from dmat.strategies import Gates
from dmat.strategies.recipes.qkv import plain_qkv
from dmat.strategies.recipes.recipe import Case
from dmat.testing.contract import FUSED, FusedContract
from dmat.testing.contract.names import NO_KIND
from dmat.testing.explain.tries import Tries, Trying
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.reads import READS
from dmat.testing.registry import law_named
from dmat.testing.verdict.finding import Finding, LawBroken

LEVELS = (0, 3, -3)  # q.k is 1, 8 and 1/8
SCALES = ("K**-0.5", 1.0)
EPSILONS = (0.0, 1e-6)


def kind_hints(tries: Tries, finding: Finding) -> Iterator[str]:
    """Yield the sentence if no kind gives the output of the plainest calls."""
    if finding.quantity == "o" and finding.what == "value" and fits_no_kind(tries.subject, tries.trying):
        yield OTHER


OTHER = f"{NO_KIND}, on the plainest calls either: it is another operator, or wrong everywhere."


def fits_no_kind(subject: Subject, trying: Trying) -> bool:
    """Return whether no kind gives the output of the plainest calls. trying: the guard of a call."""
    if subject.kind != FUSED:
        return False
    own = cast(FusedSubject, subject)
    return not any(_fits(own, contract, trying) for contract in _contracts(own.contract))


def _contracts(own: FusedContract) -> Iterator[FusedContract]:
    """Yield the kernel's own contract, and all kinds that it could be by its arguments."""
    yield own
    for name in READS:
        for scale in dict.fromkeys((own.scale, *SCALES)):
            for weight in dict.fromkeys((own.weight, None, "dt")):
                for eps in dict.fromkeys((own.eps, *EPSILONS)):
                    try:
                        yield replace(own, reads=name, scale=scale, weight=weight, eps=eps)
                    except ValueError:
                        continue


def _fits(own: FusedSubject, contract: FusedContract, trying: Trying) -> bool:
    if contract.erases != own.contract.erases:
        return False  # it takes other inputs
    subject = replace(own, implementation=replace(own.implementation, contract=contract), part="all")
    law, S = law_named("values", FUSED), subject.domain.all_lengths[0]
    for level in () if contract.erases else LEVELS:
        qkv = replace(plain_qkv(subject.domain, S), level=level)
        case: Case = {"gates": Gates(subject.domain.dtype, (1, 1, S)), "qkv": qkv}
        try:
            with trying(case):
                law.check(subject, **case)
        except LawBroken as broken:
            if broken.finding.what != "raised":
                return False
        except Exception:  # the plainest call has no answer: nothing is said
            return True
    return True

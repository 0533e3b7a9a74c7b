"""The two kinds of kernel, D~ and fused, are siblings, and a law of both is written once."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from dmat import dtilde
from dmat.testing.kernel.call import Kernel
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import BOTH, SUBJECTS, subject_of
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import laws, rank

from .zoo.fused_sound import FUSED_SOUND

RIGHT = {"D~": dtilde, "fused": FUSED_SOUND[0]}
SHARED = [law for kind in BOTH for law in laws(kind) if inspect.unwrap(law.check) is not law.check]
SEEN_BY_LAWS = {name for owner in (Kernel, Subject) for name in vars(owner) if name[0] != "_"}
SEEN_BY_LAWS |= set(Subject.__dataclass_fields__)
TESTING = Path(__file__).resolve().parents[1] / "dmat" / "testing"
OF_ONE_KIND = {"DtildeSubject", "FusedSubject", "FusedContract", "Probe", "ProbeDomain"}


class Veiled:
    """A subject that shows what every kind has, and nothing of its own kind."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __getattr__(self, name: str) -> Any:
        assert name in SEEN_BY_LAWS, f"{name} is of one kind alone"
        return getattr(self.subject, name)


def test_siblings() -> None:
    """Neither kind of subject inherits from the other, and each makes all calls of a Kernel."""
    assert not issubclass(FusedSubject, DtildeSubject)
    assert not issubclass(DtildeSubject, FusedSubject)
    assert all(not kind.__abstractmethods__ for kind in SUBJECTS.values())


@pytest.mark.parametrize("law", SHARED, ids=lambda law: f"{law.name}-{law.kind}")
def test_a_law_of_both_kinds_knows_neither(law: Law) -> None:
    """A law of both kinds uses only what both kinds have."""
    subject = subject_of(Implementation.of("right", RIGHT[law.kind]), "float32")
    if law.not_applicable(subject) is None:
        case = next(iter(law.cases.ladder(subject.domain)))
        law.check(Veiled(subject), **law.arguments(case))


def test_words_of_one_kind() -> None:
    """The text of a law has the words of its own kind."""
    texts = [law.text for kind in BOTH for law in laws(kind)]
    assert not any("//" in text or "{" in text for text in texts)


def test_the_kind_is_asked_in_one_way() -> None:
    """The tool asks for .kind, never for the type of a subject, contract, domain or recipe."""
    for file in TESTING.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                assert not asked & OF_ONE_KIND, f"{file.name}, line {node.lineno}"


@pytest.mark.parametrize("kind", BOTH)
def test_ranks(kind: str) -> None:
    """Laws are tried in the order of the registry, the law of values first and costly laws last."""
    in_order = sorted(laws(kind), key=rank)
    assert [rank(law) for law in in_order] == list(range(len(in_order)))
    for cost in ("cheap", "costly"):
        own = [law.name for law in laws(kind) if law.cost == cost]
        assert own == [law.name for law in in_order if law.cost == cost]
    assert in_order[0].name == "values"
    assert [law.cost for law in in_order] == sorted(law.cost for law in in_order)  # cheap < costly

"""The laws tell right from wrong: no sound implementation is accused, and each mutant is, by its own law."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

from dmat.testing.law import Law, Record, search
from dmat.testing.report import laws
from dmat.testing.subject import Implementation, Refused, Subject
from dmat.testing.verdict import LawBroken

from .zoo.mutants import MUTANTS, Mutant
from .zoo.sound import SOUND

LAWS = {law.name: law for law in laws()}

# Most mutants fall in float32 within a few cases; some are wrong in another dtype only, and seldom.
FOR_MUTANTS = [settings(max_examples=n, database=None, phases=[Phase.generate]) for n in (50, 2000)]
# The ladder, in two dtypes, says most of what can be said of a sound one in the time of a default run.
# `make sound` gives each of them every dtype and every example.
THOROUGH = "DMAT_SOUND" in os.environ
FOR_SOUND = settings(max_examples=100 if THOROUGH else 3, database=None)


def accusation(entry: Law, subject: Subject, profile: settings) -> str | None:
    """Return the message with which the law rejects the subject, or None."""
    torch.set_num_threads(1)
    if entry.not_applicable(subject):
        return None
    record = Record(entry.name, subject.implementation.name, subject.dtype, subject.device)
    try:
        search(entry, subject, record, subject.implementation.name, profile)
    except LawBroken as broken:
        return str(broken)
    except Refused:
        return None
    return None


def subjects(function: Callable[..., Any], name: str, device: str = "cpu") -> list[Subject]:
    """Return the function as a subject in each dtype that it promises."""
    implementation = Implementation.of(name, function)
    return [Subject(implementation, dtype, device) for dtype in implementation.contract.dtypes]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_rejected_by_its_law(mutant: Mutant) -> None:
    """The law named beside a mutant rejects it, in some dtype that it promises."""
    if mutant.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("wrong on CUDA only: no CUDA device")
    wrong = subjects(mutant.implementation, mutant.name, mutant.device)
    accusations = (accusation(LAWS[mutant.law], subject, n) for n in FOR_MUTANTS for subject in wrong)
    assert any(accusations), mutant.museum


@pytest.mark.parametrize("number", range(len(SOUND)), ids=[right.__name__ for right in SOUND])
def test_sound_is_not_accused(number: int) -> None:
    """No law rejects a right implementation."""
    right = subjects(SOUND[number], SOUND[number].__name__)
    for subject in range(len(right)) if THOROUGH else dict.fromkeys((0, number % len(right))):
        for entry in laws():
            assert accusation(entry, right[subject], FOR_SOUND) is None


def test_every_law_has_a_mutant() -> None:
    """A law that no mutant breaks is not known to work."""
    assert set(LAWS) == {mutant.law for mutant in MUTANTS}

"""The laws tell right from wrong: no sound style is accused, each law has a mutant (test_mutants.py)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, settings

from dmat.testing.registry import laws

from .zoo.mutants import MUTANTS, Mutant
from .zoo.right import RIGHT
from .zoo.trial import first_rejection, rejection, subjects

LAWS = {law.name: law for law in laws()}
ON_CUDA = [mutant for mutant in MUTANTS if mutant.device == "cuda"]

FOR_MUTANTS = [settings(max_examples=n, database=None, phases=[Phase.generate]) for n in (50, 2000)]
# The ladder, in one dtype, says most of what can be said of a sound one in the time of a default run.
# `make sound` tries every ladder in every dtype, and then fresh cases.
FOR_SOUND = settings(max_examples=3, database=None)


@pytest.mark.parametrize("mutant", ON_CUDA, ids=lambda mutant: mutant.name)
def test_mutant_is_rejected_by_its_law(mutant: Mutant) -> None:
    """The law named beside a mutant of CUDA rejects it, in some dtype; of the others: test_mutants.py."""
    if not torch.cuda.is_available():
        pytest.skip("wrong on CUDA only: no CUDA device")
    wrong = subjects(mutant.implementation, mutant.name, mutant.device)
    assert first_rejection(LAWS[mutant.law], wrong, FOR_MUTANTS), mutant.museum


@pytest.mark.parametrize("number", range(len(RIGHT)), ids=[right.__name__ for right in RIGHT])
def test_sound_is_not_accused(number: int) -> None:
    """No law rejects a right implementation."""
    right = subjects(RIGHT[number], RIGHT[number].__name__)
    for entry in laws():
        assert rejection(entry, right[number % len(right)], FOR_SOUND) is None


def test_every_law_has_a_mutant() -> None:
    """A law that no mutant breaks is not known to work."""
    assert set(LAWS) == {mutant.law for mutant in MUTANTS}

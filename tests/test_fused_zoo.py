"""The laws of fused kernels tell right from wrong: no sound kernel is accused, every mutant is rejected.

`python -m tests.zoo.fused_fresh` tries every ladder in every dtype, and then fresh cases.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import Phase, settings

from dmat.testing.registry import laws
from dmat.testing.run import shrink

from .zoo.fused_mutants import FusedMutant
from .zoo.fused_sound import Kernel
from .zoo.right import FUSED_RIGHT
from .zoo.trial import first_rejection, rejection, subjects
from .zoo.wrong import FUSED_MUTANTS

LAWS = {law.name: law for law in laws("fused")}
FOR_MUTANTS = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]
FOR_SOUND = settings(max_examples=3, database=None)
WIDE = [right for right in FUSED_RIGHT if right.__name__ in ("parallel_windows", "recurrent")]


@pytest.mark.parametrize("number", range(len(FUSED_RIGHT)), ids=[right.__name__ for right in FUSED_RIGHT])
def test_sound_is_not_accused(number: int) -> None:
    """No law rejects a right kernel, in one dtype: a few random cases, and of each fifth law the ladder."""
    right = subjects(FUSED_RIGHT[number], FUSED_RIGHT[number].__name__)
    subject = [x for x in right if x.dtype != "float64"][number % 2]
    for n, entry in enumerate(LAWS.values()):
        tried = subject if (n + number) % 5 == 0 else replace(subject, part="search")
        assert rejection(entry, tried, FOR_SOUND) is None


@pytest.mark.parametrize("right", WIDE, ids=lambda right: right.__name__)
def test_sound_in_float64(right: Kernel) -> None:
    """Of float64, whose every entry is judged in balls, a few random cases of each law."""
    subject = replace(subjects(right, right.__name__)[-1].in_dtype("float64"), part="search")
    for entry in LAWS.values():
        assert rejection(entry, subject, FOR_SOUND) is None


@pytest.mark.parametrize("mutant", FUSED_MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_rejected(mutant: FusedMutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The law named beside a mutant rejects it, in some dtype, on a case as short as can be."""
    monkeypatch.setattr(shrink, "MOST_SECONDS", math.inf)  # a busy machine finds the same
    wrong = subjects(mutant.kernel, mutant.name)
    found = first_rejection(LAWS[mutant.law], wrong, FOR_MUTANTS)
    assert found is not None, mutant.museum
    assert found.failure.case["gates"].shape[-1] <= mutant.smallest


def test_every_law_has_a_mutant() -> None:
    """A law that no mutant breaks is not known to work."""
    assert set(LAWS) == {mutant.law for mutant in FUSED_MUTANTS}

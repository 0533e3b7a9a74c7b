"""The folder in which a finding is kept. test_mutants.py tests the findings of each mutant."""

from __future__ import annotations

from pathlib import Path

from hypothesis import Phase, settings

from dmat.testing.registry import law_named
from dmat.testing.run.session import Session, explained_and_kept

from .zoo.mutants import MUTANTS
from .zoo.trial import rejection, subjects

PROFILE = settings(max_examples=50, derandomize=True, database=None, phases=[Phase.generate])


def test_a_finding_is_told_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made costs the folder, not the finding."""
    (tmp_path / "file").write_text("in the way")
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "window_one_early")
    law, subject = law_named(mutant.law), subjects(mutant.implementation, mutant.name)[0]
    rejected = rejection(law, subject, PROFILE)
    assert rejected is not None
    session = Session(folder=tmp_path / "file" / "counterexamples")
    told, home = explained_and_kept(law, subject, rejected.failure, session)
    assert home is None
    assert "computed " in str(told)
    assert str(told).splitlines()[-1].startswith("not kept: ")

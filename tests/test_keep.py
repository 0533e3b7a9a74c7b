"""What each mutant leaves: a folder that shows it, and that travels. In parts, for it is many mutants."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from dmat import dtilde
from dmat.testing.casefile import case_of, read
from dmat.testing.counterexample import law_named
from dmat.testing.keep import Keeping, told_and_kept
from dmat.testing.replay import BROKEN, FIXED, tried
from dmat.testing.subject import Implementation, Subject

from .zoo.mutants import MUTANTS, Mutant
from .zoo.trial import Rejection, first_rejection, subjects

ROOT = Path(__file__).resolve().parents[1]
ON_CPU = [mutant for mutant in MUTANTS if mutant.device == "cpu"]
PARTS = 8
PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]
FILES = {"case.json", "repro.py", "report.md", "picture.png"}
STORED = {"tensors.safetensors", "repro.safetensors"}  # of cases with random numbers, or long ones


def rejected(mutant: Mutant) -> tuple[Subject, Rejection]:
    """Return how the mutant's law first rejects it, under the name by which it can be loaded."""
    wrong = subjects(mutant.implementation, f"tests.zoo.named:{mutant.name}")
    rejection = first_rejection(law_named(mutant.law), wrong, PROFILES)
    assert rejection is not None, mutant.name
    return next(subject for subject in wrong if subject.dtype == rejection.dtype), rejection


def kept(mutant: Mutant, folder: Path) -> Path:
    """Return the folder that the mutant's failure leaves, the message and all files in it as they must be."""
    subject, rejection = rejected(mutant)
    law, began = law_named(mutant.law), time.perf_counter()
    told, home = told_and_kept(law, subject, rejection.failure, Keeping(folder=folder))
    print(f"{mutant.name}: {rejection.seconds + time.perf_counter() - began:.2f} s")
    assert home is not None
    assert FILES <= {path.name for path in home.iterdir()} <= FILES | STORED, mutant.name
    assert f"dmat replay {home} --impl tests.zoo.named:{mutant.name}" in str(told).splitlines()[-2]
    assert "no more can be said" not in str(told)
    assert "could not be made" not in (home / "report.md").read_text()
    return home


def outcomes(mutant: Mutant, home: Path) -> tuple[str, str]:
    """Return what a replay says of the mutant, and of a right kernel under the same contract."""
    file = read(home / "case.json")
    case, own = case_of(file.case, home), Implementation.of(mutant.name, mutant.implementation)
    right = replace(own, function=dtilde)
    mine, theirs = (tried(file.law, who, file.dtype, file.device, case)[0] for who in (own, right))
    return mine, theirs


def exit_codes(homes: list[Path], *arguments: str) -> list[int]:
    """Run every repro.py in a process that has made no call and imports torch alone."""
    command = [sys.executable, "-m", "tests.repro_driver", *arguments]
    paths = "\n".join(str(home / "repro.py") for home in homes)
    done = subprocess.run(command, cwd=ROOT, input=paths, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in done.stdout.splitlines()]


def imported(script: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_a_finding_is_told_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made costs the folder, not the finding."""
    (tmp_path / "file").write_text("in the way")
    subject, rejection = rejected(next(mutant for mutant in ON_CPU if mutant.name == "window_one_early"))
    law, keeping = law_named(rejection.law), Keeping(folder=tmp_path / "file" / "counterexamples")
    told, home = told_and_kept(law, subject, rejection.failure, keeping)
    assert home is None
    assert "computed " in str(told)
    assert str(told).splitlines()[-1].startswith("not kept: ")


@pytest.mark.parametrize("part", range(PARTS))
def test_every_mutant_leaves_what_shows_it(part: int, tmp_path: Path) -> None:
    """Its case is broken when replayed and its repro.py exits 1; with a right kernel both say fixed."""
    some = ON_CPU[part::PARTS]
    homes = [kept(mutant, tmp_path) for mutant in some]
    names = [mutant.name for mutant in some]
    replayed = [outcomes(mutant, home) for mutant, home in zip(some, homes, strict=True)]
    assert dict(zip(names, replayed, strict=True)) == dict.fromkeys(names, (BROKEN, FIXED))
    assert dict(zip(names, exit_codes(homes), strict=True)) == dict.fromkeys(names, 1)
    right = exit_codes(homes, "dmat:dtilde")
    assert dict(zip(names, right, strict=True)) == dict.fromkeys(names, 0)
    for home in homes:
        others = {name.split(".")[0] for name in imported(home / "repro.py")} - set(sys.stdlib_module_names)
        assert others == {"torch"}, home

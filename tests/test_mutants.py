"""Each wrong kernel of the zoo: its law rejects it, on a case as short as can be, and what is kept shows it.

One search a mutant serves all of these, by a fixture of the module: pytest runs its tests in a row.

How short a case can be is found by exhaustive search over small recipes, shortest first, which shares nothing
with the way in which run/shrink.py finds its case, and goes no further than the length that was found.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

from dmat import dtilde, strategies
from dmat.strategies import Edited
from dmat.strategies.recipes.recipe import Case
from dmat.strategies.shrinking.order import backgrounds
from dmat.testing.case_file import case_of, read
from dmat.testing.counterexample.attempt import tried
from dmat.testing.counterexample.outcome import BROKEN, FIXED
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.law import Law
from dmat.testing.law.subject import Subject
from dmat.testing.registry import law_named
from dmat.testing.run import shrink
from dmat.testing.run.session import Session, explained_and_kept
from dmat.testing.verdict.finding import LawBroken

from .zoo.mutants import MUTANTS, Mutant
from .zoo.small import EMPTY, HEADS, small_cases
from .zoo.trial import Rejection, first_rejection, subjects

ROOT = Path(__file__).resolve().parents[1]
ON_CPU = [mutant for mutant in MUTANTS if mutant.device == "cpu"]
# Most mutants fall in float32 within a few cases; some are wrong in another dtype only, and seldom.
PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]
FILES = {"case.json", "repro.py", "report.md", "picture.png"}
STORED = {"tensors.safetensors", "repro.safetensors"}  # of cases with random numbers, or long ones


@dataclass(frozen=True)
class Found:
    """A mutant, its law, and how that rejected it, if it did, in the first dtype in which it does."""

    mutant: Mutant
    law: Law
    subject: Subject
    rejection: Rejection

    @property
    def case(self) -> Case:
        """The case, from the Python that is shown."""
        case: Case = {}
        exec(self.rejection.case, dict(vars(strategies)), case)
        return case

    def breaks(self, case: Case) -> bool:
        """Whether the law rejects the mutant for this case, which lies in its domain."""
        inside = self.law.cases.inside
        assert inside is not None
        if not inside(case, self.subject.domain):
            return False
        try:
            self.law.check(self.subject, **case)
        except LawBroken:
            return True
        except Refused:
            return False
        return False


def seeded(law: Law) -> Law:
    """Return the law for which an implementation that draws lots draws the same in every case."""

    @wraps(law.check)
    def check(subject: Subject, **case: Any) -> None:
        torch.manual_seed(0)
        law.check(subject, **case)

    return replace(law, check=check)


def rejected(mutant: Mutant) -> Found | None:
    """Return how the mutant's law rejects it, under the name by which it can be loaded."""
    law = seeded(law_named(mutant.law))
    wrong = subjects(mutant.implementation, f"tests.zoo.named:{mutant.name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrink, "MOST_SECONDS", float("inf"))  # a busy machine finds the same
        rejection = first_rejection(law, wrong, PROFILES)
    if rejection is None:
        return None
    return Found(mutant, law, next(s for s in wrong if s.dtype == rejection.dtype), rejection)


@pytest.fixture(scope="module", params=ON_CPU, ids=lambda mutant: mutant.name)
def maybe(request: pytest.FixtureRequest) -> Found | None:
    """Search, once a mutant."""
    torch.set_num_threads(1)
    return rejected(request.param)


@pytest.fixture
def found(maybe: Found | None) -> Found:
    """Return what was found, for the tests of what it is like."""
    assert maybe is not None
    return maybe


@pytest.fixture
def shrunk(found: Found) -> Found:
    """Return what was found of a law that makes its case smaller."""
    if found.law.cases.inside is None:
        pytest.skip("the law shows a case as it was found")
    return found


@pytest.fixture(scope="session")
def exit_code() -> Iterator[Callable[..., int]]:
    """Run a script in a process that has made no call and has torch alone loaded, and tell its exit code."""
    command = [sys.executable, "-m", "tests.repro_driver"]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) as driver:
        assert driver.stdin
        assert driver.stdout

        def run(script: Path, *arguments: str) -> int:
            print(script, *arguments, sep="\t", file=driver.stdin, flush=True)
            return int(driver.stdout.readline().split()[0])  # type: ignore[union-attr]

        yield run


def test_its_law_rejects_it(maybe: Found | None) -> None:
    """The law named beside a mutant rejects it, in some dtype that it promises."""
    assert maybe is not None


def test_the_shortest(shrunk: Found) -> None:
    """No small recipe of a smaller length, or of fewer heads, breaks the law; 0 is the largest length."""
    shape = shrunk.case["gates"].shape
    longest = shape[-1] if 0 not in shape else 3
    one_head = [(1, 1, n) for n in range(1, longest + 1)]
    many = [(*heads, n) for n in range(1, min(longest, 3) + 1) for heads in HEADS]
    shapes = [*sorted([*one_head, *many], key=lambda shape: (shape[-1], shape[0] * shape[1])), *EMPTY]
    dtype = shrunk.subject.dtype
    broken = (s for s in shapes if any(shrunk.breaks(case) for case in small_cases(shrunk.law, dtype, s)))
    assert next(broken, None) in (shape, None)  # None: small recipes do not even go so far


def test_no_edit_to_spare(shrunk: Found) -> None:
    """Without any one edit of its recipes the case breaks the law no more."""
    for part, field, background in backgrounds(shrunk.case):
        edits = background.edits if isinstance(background, Edited) else ()
        for n in range(len(edits)):
            without = replace(background, edits=edits[:n] + edits[n + 1 :])  # type: ignore[type-var]
            case = {**shrunk.case, part: replace(shrunk.case[part], **{field: without})}
            assert not shrunk.breaks(case), without


def kept(found: Found, folder: Path) -> Path:
    """Return the folder that the mutant's failure leaves, the message and all files in it as they must be."""
    law = law_named(found.mutant.law)
    told, home = explained_and_kept(law, found.subject, found.rejection.failure, Session(folder=folder))
    assert home is not None
    assert FILES <= {path.name for path in home.iterdir()} <= FILES | STORED
    assert f"dmat replay {home} --impl tests.zoo.named:{found.mutant.name}" in str(told).splitlines()[-2]
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


def imported(script: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_what_it_leaves_shows_it(found: Found, tmp_path: Path, exit_code: Callable[..., int]) -> None:
    """Its case is broken when replayed and its repro.py exits 1; with a right kernel both say fixed."""
    home = kept(found, tmp_path)
    assert outcomes(found.mutant, home) == (BROKEN, FIXED)
    script = home / "repro.py"
    assert (exit_code(script), exit_code(script, "dmat:dtilde")) == (1, 0)
    assert {name.split(".")[0] for name in imported(script)} - set(sys.stdlib_module_names) == {"torch"}

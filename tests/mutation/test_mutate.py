"""The mutator itself: a mutant a place, none where there is no code, and a list that matches the source."""

from __future__ import annotations

import ast
import subprocess
import sys

from .equivalent import arguments, stale
from .mutate import mutants
from .targets import OPERATOR, ROOT, SEGMENTS, TARGETS, TORCH_KERNELS

WITHOUT_PLACES = '''
"""A docstring."""

import torch
from torch import Tensor


def f(x: Tensor, n: "int") -> Tensor:
    """Another."""


class A:
    """A third."""
'''

ONE_SUM = """
class A:

    @staticmethod
    def f(x: int=1) -> int:
        if x < 2:
            raise ValueError('x is below 2')
        return x[:-1] + x
"""


def edits(source: str) -> set[tuple[str, str, str]]:
    return {mutant.key for mutant in mutants(source)}


def test_no_place_no_mutant() -> None:
    """Imports, annotations and docstrings are not mutated."""
    assert mutants(WITHOUT_PLACES) == []


def test_every_kind_of_edit_is_made_where_it_fits() -> None:
    """Of one small function: defaults, comparisons, conditions, arithmetic, slices, results, deletions."""
    made = edits(ONE_SUM)
    result = "return x[:-1] + x"
    for after in ("x[:-1] - x", "x[:-1]", "x", "x[:-2] + x", "x[1:-1] + x", "x[:] + x", "-(x[:-1] + x)"):
        assert ("A.f", result, f"return {after}") in made
    for after in ("if x <= 2:", "if x > 2:", "if True:", "if False:", "if not x < 2:", "if x < 3:", "pass"):
        assert ("A.f", "if x < 2:", after) in made
    assert ("A.f", "raise ValueError('x is below 2')", "pass") in made
    assert ("A.f", "def f(x: int=1) -> int:", "def f(x: int=2) -> int:") in made


def test_mutants_differ_from_the_source_and_from_each_other() -> None:
    """Each is the whole module with one edit, and leaves the next one's source alone."""
    made = mutants(ONE_SUM)
    sources = [mutant.source() for mutant in made]
    assert len({*sources, ast.unparse(ast.parse(ONE_SUM))}) == len(sources) + 1
    assert sources == [mutant.source() for mutant in made]


def test_every_function_of_the_operator_is_in_one_target() -> None:
    """No place of the operator's three modules is left out, none is tried twice."""
    for module in (TORCH_KERNELS, SEGMENTS, OPERATOR):
        targets = [target for target in TARGETS if target.module == module]
        tried = [m for target in targets for m in target.mutants() if m.operator != "detached"]
        everything = mutants((ROOT / targets[0].path).read_text())
        everything = [mutant for mutant in everything if mutant.operator != "detached"]
        assert sorted(mutant.key for mutant in tried) == sorted(mutant.key for mutant in everything)


def test_every_name_of_a_target_has_mutants() -> None:
    """A function that was renamed does not leave the score in silence."""
    for target in TARGETS:
        mutated = {mutant.function.split(".")[0] for mutant in target.mutants()}
        assert mutated == {name.split(".")[0] for name in target.functions}


def test_no_entry_of_the_list_is_stale() -> None:
    """Each mutant argued equivalent is one that the mutator makes, and has an argument."""
    assert stale() == []
    assert all(arguments().values())


def test_judge_rejects() -> None:
    """The command, on three mutants of one sound kernel: all are rejected."""
    command = [sys.executable, "-m", "tests.mutation", "--target", "two_branches", "--every", "30"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 of 3 rejected: 100.00%" in run.stdout

"""The layers of dmat: the place of each file, and the imports that are allowed (docs/architecture.md).

A file imports what stands in its own folder or on a lower floor. Imports inside functions and under
TYPE_CHECKING count too. What does not keep to that yet is listed here, with the
reason; a list may only shrink.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = {"dmat": "dmat", "strategies": "dmat.strategies", "properties": "dmat.properties"}

# Each line is a floor; its members are siblings, and siblings do not import each other. verdict stands below
# kernel, for a call that fails raises LawBroken; oracle stands below bounds, for a bound is a bound of it.
FLOORS = tuple(
    line.split()
    for line in """
    pages triton_kernels strategies.choose strategies.promised
    torch_kernels strategies.shapes
    segments strategies.recipes
    operator strategies.regimes
    reference strategies.drawing
    strategies.domain
    strategies.fused_domain
    strategies.cases
    strategies.shrinking
    strategies
    testing.errors
    testing.output testing.text testing.processes testing.interpret testing.devices
    testing.contract
    testing.record
    testing.case_file
    testing.oracle
    testing.bounds
    testing.verdict
    testing.kernel
    testing.gate
    testing.law
    testing.inspect
    properties
    testing.registry
    testing.explain
    testing.assertion
    testing.counterexample
    testing.run
    testing.grade
    testing.compare
    testing.relax
    testing.causes
    testing.check testing.fuzzing testing.journals
    testing.init
    testing.plugin_of_laws testing.schemas testing.values
    testing.options
    testing.cli testing.plugin testing.python
    """.strip().splitlines()
)
FACADES = {"dmat", "dmat.testing"}  # their names stand elsewhere

UPWARD = {
    ("strategies.recipes.qkv", "strategies.fused_domain"): "the recipe and how it is drawn stand in one file",
}
# How many statements, and what would else be loaded too early.
FUNCTION_LEVEL = {
    "testing.check.gate": (1, "loads torch, in a process that freezes a contract alone"),
    "testing.check.judge": (3, "the process that waits loads no torch; only a broken kernel needs it"),
    "testing.check.workers": (2, "loads torch, in a worker process alone"),
    "testing.cli": (7, "a command loads what it needs alone: `dmat --help` loads no torch"),
    "testing.counterexample.folder": (1, "loads matplotlib, and a broken law alone needs it"),
    "testing.counterexample.replay": (2, "the process that waits loads no torch; --keep alone reads cases"),
    "testing.fuzzing.report.result": (1, "loads torch, and a run that found something alone needs it"),
    "testing.fuzzing.run": (2, "ray for a cluster alone; jinja2 when the report is written"),
    "testing.fuzzing.tasks": (1, "a process loads torch when its GPU has been chosen"),
    "testing.gate.behind": (3, "loads torch, in a worker process alone"),
    "testing.inspect.inspected": (2, "a process loads torch and triton when its environment is set"),
    "testing.interpret.install": (2, "triton is imported when its interpreter has been chosen"),
    "testing.plugin": (6, "loaded in every pytest run: no torch before a law is collected, or has failed"),
    "testing.schemas": (5, "the schema of a report needs the structs of that report alone"),
}
PYTEST = {"testing.journals", "testing.plugin", "testing.plugin_of_laws", "testing.python.suite"}
LARGEST_FOLDER, LONGEST_FILE = 16, 400


def name_of(file: Path) -> str:
    """Return the module that a file is, as it is imported."""
    top, *rest = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([TOPS[top], *rest]).removesuffix(".__init__")


@cache
def files() -> dict[str, Path]:
    """Return every file of the product, by module; links are left out."""
    found = [file for top in TOPS for file in (ROOT / top).rglob("*.py")]
    seen = [file for file in found if not any(folder.is_symlink() for folder in file.parents)]
    return {name_of(file): file for file in seen}


def imported(node: ast.AST) -> set[str]:
    """Return the product's modules that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import"
        assert node.module is not None
        names = {
            f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in files() else node.module
            for alias in node.names
        }
    elif isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    else:
        return set()
    return {name for name in names if name.split(".")[0] == "dmat"}


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports, wherever the import stands."""
    return {
        name: {there for node in ast.walk(ast.parse(file.read_text())) for there in imported(node)}
        for name, file in files().items()
    }


def place(module: str) -> tuple[int, str]:
    """Return the floor of a module, and which member of it the module belongs to."""
    own = module.removeprefix("dmat.")
    members = [(number, member) for number, floor in enumerate(FLOORS) for member in floor]
    within = [one for one in members if own == one[1] or own.startswith(one[1] + ".")]
    assert within, f"{module} stands on no floor"
    return max(within, key=lambda one: len(one[1]))


def test_imports_go_down() -> None:
    """A file imports its own folder and lower floors: floor(imported) < floor(importing)."""
    upward = set()
    for module, there in imports().items():
        for other in there - FACADES if module not in FACADES else ():
            (floor, member), (below, its) = place(module), place(other)
            if member != its and below >= floor:
                upward.add((module.removeprefix("dmat."), its))
    assert upward == set(UPWARD)


def test_no_circle() -> None:
    """No file imports itself by way of others."""
    left = {module: set(there) - {module} for module, there in imports().items() if module not in FACADES}
    while free := [module for module, there in left.items() if not there & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_imports_inside_functions() -> None:
    """dmat imports its own modules inside a function only where the list says why."""
    found: Counter[str] = Counter()
    for module, file in files().items():
        if module in FACADES:
            continue
        functions = [
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
        ]
        nodes = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.stmt)]
        statements = {node.lineno for node in nodes if imported(node)}
        found[module.removeprefix("dmat.")] = len(statements)
    assert +found == {module: number for module, (number, _) in FUNCTION_LEVEL.items()}


def test_only_the_front_doors_know_pytest() -> None:
    """No file of dmat imports pytest, but for its plugin."""
    found = set()
    for module, file in files().items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "pytest" in names or (isinstance(node, ast.ImportFrom) and node.module == "pytest"):
                found.add(module.removeprefix("dmat."))
    assert found == PYTEST


def test_folders_are_small() -> None:
    """A folder has at most 16 files, a file at most 400 lines."""
    folders = Counter(file.parent for file in files().values())
    assert max(folders.values()) <= LARGEST_FOLDER
    assert not [m for m, f in files().items() if f.read_text().count("\n") > LONGEST_FILE]


def test_a_folder_answers_a_question() -> None:
    """The __init__.py of a folder is one line; names are imported from the file that has them."""
    for module, file in files().items():
        if file.name == "__init__.py" and module not in {
            *FACADES,
            "dmat.testing.contract",
            "dmat.strategies",
            "dmat.properties",
        }:
            assert len(ast.parse(file.read_text()).body) == 1, f"{module} has code"

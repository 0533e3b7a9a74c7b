"""Mutants of a source: one for each place and each thing that an operator of mutation puts there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .operators import OPERATORS

# What is no code: names of imports and decorators, annotations; and messages, which are read by people.
UNTOUCHED = {"decorator_list", "annotation", "returns", "type_comment"}
WORDS = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Place:
    """Where a node stands: in a field of its parent, or at an index of it, within a statement."""

    parent: ast.AST
    field: str
    index: int | None
    function: str
    statement: ast.stmt

    @property
    def node(self) -> ast.AST:
        """What stands there."""
        value = getattr(self.parent, self.field)
        found: ast.AST = value if self.index is None else value[self.index]
        return found

    def put(self, node: ast.AST) -> None:
        """Put another node there."""
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


@dataclass(frozen=True)
class Mutant:
    """A source with one edit.

    function: the qualified name of the one it is in, "" for the module. before, after: the innermost
    statement around the edit, without the block below it. operator: that made it.
    """

    function: str
    before: str
    after: str
    operator: str
    line: int
    _tree: ast.Module = field(repr=False, compare=False)
    _place: Place = field(repr=False, compare=False)
    _node: ast.AST = field(repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is called in the list of equivalent ones: unrelated edits of the source leave it."""
        return self.function, self.before, self.after

    def source(self) -> str:
        """Return the whole mutated module."""
        return _edited(self._tree, self._place, self._node)


def mutants(source: str) -> list[Mutant]:
    """Return every mutant of a source, in its order; equal ones of one statement are one."""
    tree = ast.parse(source)
    found: dict[tuple[Any, ...], Mutant] = {}
    for place in list(_places(tree, "", None)):
        before = _head(ast.unparse(place.statement))
        for operator in OPERATORS:
            for node in operator(place.node, place.parent, place.field):
                after = _after(place, node)
                if after != before:
                    line = place.statement.lineno
                    mutant = Mutant(place.function, before, after, operator.__name__, line, tree, place, node)
                    found.setdefault((id(place.statement), after), mutant)
    return list(found.values())


def _head(statement: str) -> str:
    """Return the line of a statement that stands below its decorators and above its block."""
    return next(line for line in statement.splitlines() if not line.startswith("@"))


def _after(place: Place, node: ast.AST) -> str:
    if place.node is place.statement:
        return _head(ast.unparse(ast.fix_missing_locations(node)))
    return _head(_edited(place.statement, place, node))


def _edited(root: ast.AST, place: Place, node: ast.AST) -> str:
    """Return the source of `root` with the edit; the tree is left as it was."""
    original = place.node
    place.put(node)
    try:
        text = ast.unparse(ast.fix_missing_locations(root))
    finally:
        place.put(original)
    return text


def _places(parent: ast.AST, function: str, statement: ast.stmt | None) -> Iterator[Place]:
    """Every place below a node that may be mutated, in the order of the source."""
    for name, value in ast.iter_fields(parent):
        if name in UNTOUCHED:
            continue
        items = value if isinstance(value, list) else [value]
        for index, node in enumerate(items):
            if not isinstance(node, ast.AST) or _is_docstring(node):
                continue
            within = node if isinstance(node, ast.stmt) else statement
            if within is not None:
                yield Place(parent, name, index if isinstance(value, list) else None, function, within)
            if not isinstance(node, WORDS):
                yield from _places(node, _inside(node, function), within)


def _inside(node: ast.AST, function: str) -> str:
    """Return the qualified name of what a node's children are in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return f"{function}.{node.name}" if function else node.name
    return function


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

"""Patch loops: the loop variable of a kernel's `for` has `.to()`. On the device it is a tensor, which has it.

The iterable of every `for` in a kernel is rewritten: `range`, `tl.range` or `tl.static_range`. Loops of host
code are not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from triton import language
from triton.runtime import interpreter

OPERATIONS = ("add", "sub", "mul", "floordiv", "mod")
NAME = "_dmat_known_integers"  # the name of known_integers in the source of a rewritten kernel


class Integer(int):
    """A loop variable, or an integer computed from loop variables."""

    dtype = language.int32

    def to(self, dtype: Any, **keywords: Any) -> Any:
        """Return this integer as a scalar tensor of this dtype."""
        semantic = interpreter.interpreter_semantic
        return semantic.cast(semantic.to_tensor(int(self)), getattr(dtype, "value", dtype))


def _kept(operation: Callable[[int, int], Any]) -> Callable[[Any, Any], Any]:
    def kept(this: int, other: int) -> Any:
        found = operation(this, other)
        return Integer(found) if isinstance(found, int) else found

    return kept


def known_integers(loop: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of `loop`, each int as an Integer."""
    for value in loop:
        yield Integer(value) if isinstance(value, int) else value


class Rewriter(interpreter.ASTTransformer):  # type: ignore[misc]
    """Rewrites the source of a kernel: Triton's own rewriting, and the loops."""

    def visit_For(self, node: ast.For) -> Any:
        """Wrap the iterable in a call of known_integers."""
        node.iter = ast.Call(ast.Name(NAME, ast.Load()), [node.iter], [])
        return self.generic_visit(node)


def patch() -> None:
    """Rewrite the loops of every kernel that is rewritten from now on."""
    for name in OPERATIONS:
        for whole in (f"__{name}__", f"__r{name}__"):
            setattr(Integer, whole, _kept(getattr(int, whole)))
    setattr(interpreter, NAME, known_integers)  # rewritten kernels look names up in this module
    interpreter.FunctionRewriter.ast_transformer = Rewriter()

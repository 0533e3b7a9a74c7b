"""The integers of a kernel's loops know `.to()`, as the tensors do that they are on the device.

Whatever a kernel's `for` runs over, `range`, `tl.range` or `tl.static_range`, is rewritten; code on the host
keeps its own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from triton import language
from triton.runtime import interpreter

OPERATIONS = ("add", "sub", "mul", "floordiv", "mod")
NAME = "_dmat_known_integers"  # in the module of a rewritten kernel


class Integer(int):
    """An integer of a loop, or one that was computed from such."""

    dtype = language.int32

    def to(self, dtype: Any, **keywords: Any) -> Any:
        """Return it as a scalar of this dtype."""
        semantic = interpreter.interpreter_semantic
        return semantic.cast(semantic.to_tensor(int(self)), getattr(dtype, "value", dtype))


def _kept(operation: Callable[[int, int], Any]) -> Callable[[Any, Any], Any]:
    def kept(this: int, other: int) -> Any:
        found = operation(this, other)
        return Integer(found) if isinstance(found, int) else found

    return kept


def known_integers(loop: Iterable[Any]) -> Iterator[Any]:
    """Yield the same, its integers as ours."""
    for value in loop:
        yield Integer(value) if isinstance(value, int) else value


class Rewriter(interpreter.ASTTransformer):  # type: ignore[misc]
    """Rewrites the source of a kernel: what Triton's own does, and the loops."""

    def visit_For(self, node: ast.For) -> Any:
        """Put what it runs over through known_integers."""
        node.iter = ast.Call(ast.Name(NAME, ast.Load()), [node.iter], [])
        return self.generic_visit(node)


def mend() -> None:
    """Rewrite the loops of all kernels from now on."""
    for name in OPERATIONS:
        for whole in (f"__{name}__", f"__r{name}__"):
            setattr(Integer, whole, _kept(getattr(int, whole)))
    setattr(interpreter, NAME, known_integers)  # what stands there, every rewritten kernel sees
    interpreter.FunctionRewriter.ast_transformer = Rewriter()

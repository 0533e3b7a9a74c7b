"""Patch the launch: triton.language is patched once, NumPy is silent, and Triton wraps no `Reported` error.

Triton's interpreter patches triton.language at each launch and at each inner call, which takes half of its
time. It also wraps an error once for each call that the error leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from triton import language
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError


class Reported(Exception):
    """An error that reaches the user as it is, not wrapped in an InterpreterError."""


def root(error: BaseException) -> BaseException:
    """Return the error inside the interpreter's wrappers."""
    while isinstance(error, InterpreterError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _inner(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Replace InterpretedFunction.__call__: call a Triton function from another, without patching again."""
    return function.rewrite()(*arguments, **keywords)


def _outer(launched: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the launch of a grid: silence NumPy, and raise a Reported error unwrapped."""

    def launch(executor: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            with np.errstate(all="ignore"):
                return launched(executor, *arguments, **keywords)
        except InterpreterError as error:
            cause = root(error)
            if isinstance(cause, Reported):
                raise cause from None
            raise

    return launch


def patch() -> None:
    """Patch triton.language for the rest of the process."""
    everything = {"tl": language, "core": language.core}
    interpreter._patch_lang(SimpleNamespace(__globals__=everything))
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
    interpreter.InterpretedFunction.__call__ = _inner
    interpreter.GridExecutor.__call__ = _outer(interpreter.GridExecutor.__call__)

"""A launch: the language is patched once for good, NumPy does not warn, and a kernel's own error comes out.

The interpreter patches triton.language at each launch and at each inner call, which takes half its time, and
wraps an error once a call.
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
    """An error that a kernel is to be told as it stands, not as one of the interpreter's."""


def root(error: BaseException) -> BaseException:
    """Return the error that the interpreter has wrapped."""
    while isinstance(error, InterpreterError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _inner(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call a function of Triton from within another."""
    return function.rewrite()(*arguments, **keywords)


def _outer(launched: Callable[..., Any]) -> Callable[..., Any]:
    """Launch a grid."""

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


def mend() -> None:
    """Patch the language, and leave it so."""
    everything = {"tl": language, "core": language.core}
    interpreter._patch_lang(SimpleNamespace(__globals__=everything))
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
    interpreter.InterpretedFunction.__call__ = _inner
    interpreter.GridExecutor.__call__ = _outer(interpreter.GridExecutor.__call__)

"""Patch the autotuner: an autotuned kernel runs with the config of a chosen number, and nothing is timed.

If a kernel has fewer configs, the number wraps around. If a static assertion refuses a config, the next one
is used. `triton.heuristics` is not patched.
"""

from __future__ import annotations

from typing import Any

from triton import language
from triton.runtime import autotuner
from triton.runtime.errors import InterpreterError

from dmat.testing.interpret.choice import CONFIGS, config_index
from dmat.testing.interpret.launch import root


class Refusal(AssertionError):
    """A static assertion has failed."""


def static_assert(condition: object, message: object = "") -> None:
    """Replace tl.static_assert: raise Refusal if the condition is false."""
    if not condition:
        raise Refusal(message)


def run(tuner: Any, *arguments: Any, **keywords: Any) -> Any:
    """Replace Autotuner.run: run the kernel with the chosen config, as Triton does after timing."""
    tuner.nargs = dict(zip(tuner.arg_names, arguments, strict=False))
    try:
        configs = tuner.prune_configs(keywords) if len(tuner.configs) > 1 else tuner.configs
        CONFIGS.add(len(configs))
        first = config_index() or 0
        for number in range(first, first + len(configs)):
            try:
                return _run(tuner, configs[number % len(configs)], arguments, keywords)
            except InterpreterError as error:
                refusal = root(error)
                if not isinstance(refusal, Refusal) or number == first + len(configs) - 1:
                    raise
    finally:
        tuner.nargs = None


def _run(tuner: Any, config: Any, arguments: Any, keywords: Any) -> Any:
    tuner.best_config = config
    if config.pre_hook is not None:
        config.pre_hook({**tuner.nargs, **keywords, **config.all_kwargs()})
    return tuner.fn.run(*arguments, **keywords, **config.all_kwargs())


def patch() -> None:
    """Replace Triton's tl.static_assert and Autotuner.run."""
    for module in (language, language.core):
        module.static_assert = static_assert
    autotuner.Autotuner.run = run

"""An autotuned kernel takes the config of a chosen number; nothing is timed.

Of fewer configs the number wraps around; after one that a static assertion refuses comes the next.
`triton.heuristics` is left as it is.
"""

from __future__ import annotations

from typing import Any

from triton import language
from triton.runtime import autotuner
from triton.runtime.errors import InterpreterError

from dmat.testing.interpret.choice import asked
from dmat.testing.interpret.launch import root


class Refusal(AssertionError):
    """A static assertion that does not hold."""


def static_assert(condition: object, message: object = "") -> None:
    """Stand in for tl.static_assert."""
    if not condition:
        raise Refusal(message)


def run(tuner: Any, *arguments: Any, **keywords: Any) -> Any:
    """Run the kernel as it is run once its configs have been timed."""
    tuner.nargs = dict(zip(tuner.arg_names, arguments, strict=False))
    try:
        configs = tuner.prune_configs(keywords) if len(tuner.configs) > 1 else tuner.configs
        first = asked() or 0
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


def mend() -> None:
    """Put it in the place of Triton's own."""
    for module in (language, language.core):
        module.static_assert = static_assert
    autotuner.Autotuner.run = run

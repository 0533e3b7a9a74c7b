"""Record the launches of Triton kernels: each call of a kernel is written down, and nothing is run.

The kernels are those that Triton compiles, not interpreted ones. So a launch has its real specialisations
(divisible by 16, equal to 1), constexprs and options, as Triton's own binder finds them for this machine.
Outputs stay zeros. Reads private functions of triton 3.7.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import autotuner, jit

from dmat.testing.inspect.machines import Machine
from dmat.testing.interpret import devices


@dataclass(frozen=True, eq=False)
class Launch:
    """A kernel with all that Triton compiles it by.

    signature: the type of each argument. constants: the values of constexprs. attributes: specialisations.
    options: num_warps, num_stages and others. config: the number of its autotune configuration, or None.
    configs: how many it has. group: the number of the first launch that differs by its configuration alone.
    failure: why Triton refuses the options, else "".
    """

    kernel: Any
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: Any
    config: int | None = None
    configs: int = 1
    group: int = 0
    failure: str = ""

    @property
    def name(self) -> str:
        """The name of the kernel."""
        name: str = self.kernel.__name__
        return name

    @property
    def key(self) -> str:
        """What tells apart two launches that Triton compiles apart."""
        constants = {at: getattr(value, "cache_key", value) for at, value in self.constants.items()}
        return str((self.kernel.cache_key, self.signature, self.attributes, constants, self.options))


class Zeros(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fill every new tensor with zeros: no launch fills it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation; fill what it leaves uninitialised."""
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("empty", "empty_like", "empty_strided", "new_empty"):
            found.zero_()
        return found


class Recorded:
    """The launches of this process, each once, in the order of the first."""

    def __init__(self, machine: Machine) -> None:
        """Record nothing yet."""
        self.machine = machine
        self.launches: dict[str, Launch] = {}
        self.dtypes: dict[str, set[str]] = {}
        self.dtype = ""  # of the calls that are made now
        self._config: tuple[int | None, int] = (None, 1)
        self._group: int | None = None

    def run(self, function: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        """Replace JITFunction.run: record the launch as Triton would compile it."""
        keywords["debug"] = keywords.get("debug", function.debug) or False
        keywords["instrumentation_mode"] = ""
        for hook in function.pre_run_hooks:
            hook(*arguments, **keywords)
        _, _, _, backend, binder = function.device_caches[self.machine.name]
        bound, specialized, options = binder(*arguments, **keywords)
        failure = ""
        try:
            packed = function._pack_args(backend, keywords, bound, specialized, options)
        except (ValueError, AssertionError) as error:  # options that the architecture does not have
            packed, failure = (options, {}, {}, {}), f"{type(error).__name__}: {error}"
        options, signature, constants, attributes = packed
        if callable(grid):
            grid(bound)  # it may raise
        launch = Launch(function, signature, constants, attributes, options, *self._config, failure=failure)
        key = launch.key
        if key not in self.launches:
            number = len(self.launches) if self._group is None else self._group
            self.launches[key] = replace(launch, group=number)
        if self._config[0] is not None and self._group is None:
            self._group = self.launches[key].group
        self.dtypes.setdefault(key, set()).add(self.dtype)

    def tune(self, tuner: Any, *arguments: Any, **keywords: Any) -> None:
        """Replace Autotuner.run: launch with each configuration that is left after pruning."""
        tuner.nargs = dict(zip(tuner.arg_names, arguments, strict=False))
        before = self._config, self._group
        try:
            configs = tuner.prune_configs(keywords) if len(tuner.configs) > 1 else tuner.configs
            self._group = None
            for number, config in enumerate(configs):
                self._config = number, len(configs)
                tuner.best_config = config
                if config.pre_hook is not None:
                    config.pre_hook({**tuner.nargs, **keywords, **config.all_kwargs()})
                tuner.fn.run(*arguments, **keywords, **config.all_kwargs())
        finally:
            tuner.nargs = None
            self._config, self._group = before


@contextmanager
def recording(machine: Machine) -> Iterator[Recorded]:
    """Record the launches of this context, on this machine."""
    stand_on(machine)
    recorded = Recorded(machine)
    before = jit.JITFunction.run, autotuner.Autotuner.run
    jit.JITFunction.run = lambda function, *a, **k: recorded.run(function, *a, **k)
    autotuner.Autotuner.run = lambda tuner, *a, **k: recorded.tune(tuner, *a, **k)
    try:
        with Zeros():  # type: ignore[no-untyped-call]
            yield recorded
    finally:
        jit.JITFunction.run, autotuner.Autotuner.run = before


def stand_on(machine: Machine) -> None:
    """Make torch and Triton report this machine. Call it before the kernels are imported: they may ask."""
    hip = machine.backend == "hip"
    torch.version.hip, torch.version.cuda = ("7.0", None) if hip else (None, "13.0")
    torch.cuda.device_count = lambda: 1
    devices.PROPERTIES.__dict__.update(
        name=machine.title,
        major=machine.version[0],
        minor=machine.version[1],
        multi_processor_count=machine.units,
        shared_memory_per_block_optin=machine.shared,
        warp_size=machine.warp,
        gcnArchName=machine.name,
        target=GPUTarget(machine.backend, machine.arch, machine.warp),
    )
    devices.patch()

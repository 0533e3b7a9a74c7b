"""Kernels given as functions of this process, as dmat.check takes them: their names and their promises."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from dmat.testing.contract import AnyContract, Contract
from dmat.testing.contract.attached import require_fields
from dmat.testing.kernel.builtin import BUILTIN
from dmat.testing.kernel.declare import fused
from dmat.testing.kernel.implementation import Implementation


@dataclass(frozen=True)
class Given:
    """A kernel given as a function. Its name is the TARGET that the command would take, if there is one.

    promises: those stated in the call, beside the function. nowhere: why no other process can import the
    function by its name, or "".
    """

    implementation: Implementation
    promises: Mapping[str, Any] = field(default_factory=dict)
    nowhere: str = ""

    @property
    def by_name(self) -> bool:
        """Whether the name alone leads to this kernel and its contract, in any process."""
        return not self.nowhere and not self.promises

    def call(self, function: str, *arguments: str) -> str:
        """Return the call of a function of dmat on this kernel, as Python. arguments: before the kernel."""
        last = self.implementation.name.rpartition(":")[2].rpartition(".")[2]
        own = last if last.isidentifier() else "kernel"
        stated = [f"{name}={value!r}" for name, value in self.promises.items()]
        return f"dmat.{function}({', '.join([*map(repr, arguments), own, *stated])})"


_GIVEN: dict[str, Given] = {}  # by name, as long as their check lasts


def given_as(name: str) -> Given | None:
    """Return the kernel that was given as a function under this name, or None."""
    return _GIVEN.get(name)


def give(kernel: Given) -> None:
    """Let `load` return this kernel for its name, for as long as this process lives."""
    _GIVEN[kernel.implementation.name] = kernel


@contextmanager
def giving(kernel: Given) -> Iterator[None]:
    """Let `load` return this kernel for its name, in this process."""
    before = dict(_GIVEN)
    try:
        give(kernel)
        yield
    finally:
        _GIVEN.clear()
        _GIVEN.update(before)


def given(function: Callable[..., Any], promises: Mapping[str, Any]) -> Given:
    """Return a function with its name and its contract.

    Raises TypeError for what is no function, for a field that does not exist, and for promises beside those
    of a decorator; ValueError for a value that a field does not allow.
    """
    if not callable(function):
        raise TypeError(f"the kernel is {function!r}; expected a function")
    name, nowhere = _name_of(function)
    return Given(declared(name, function, promises), promises, nowhere)


def declared(name: str, function: Callable[..., Any], promises: Mapping[str, Any]) -> Implementation:
    """Return the implementation of a function: with these promises, or as it was decorated, or strictest."""
    own = next((known for known in BUILTIN if known.function is function), None)
    if promises and (own or isinstance(getattr(function, "__dmat_contract__", None), AnyContract)):
        stated = ", ".join(promises)
        raise TypeError(
            f"{name} has a contract of its own, and the call states {stated}: state all in one place"
        )
    if "reads" in promises:
        return Implementation.of(name, fused(function, **promises))
    if promises:
        require_fields(promises)
        return Implementation(name, function, Contract(**promises))
    return Implementation.of(name, function) if own is None else Implementation(name, function, own.contract)


# The name of a function


def _name_of(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the TARGET of a function, and why no other process can import it by that, or ""."""
    module, attribute = _home(function)
    if module is None:
        named = getattr(function, "__qualname__", type(function).__name__)
        where = getattr(function, "__module__", None) or "__main__"
        return f"{where}:{named}", f"no module has {named} under a name of its own"
    name = module.__name__
    if name == "__main__":
        return f"{name}:{attribute}", f"{attribute} stands in the script or notebook that is running"
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if not file.is_file():
        return f"{name}:{attribute}", f"the module {name} has no file"
    roots = _roots()
    if "." not in name and not hasattr(module, "__path__") and file.parent not in roots:
        here = Path.cwd()
        return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{attribute}", ""
    depth = name.count(".") + hasattr(module, "__path__")
    if file.parents[depth] in {*roots, Path.cwd()} or _is_installed(name):
        return f"{name}:{attribute}", ""
    return f"{name}:{attribute}", f"{name} is found by the sys.path of this process alone"


def _home(function: Callable[..., Any]) -> tuple[ModuleType | None, str]:
    """Return the module that has this very function, and its name there."""
    own = sys.modules.get(getattr(function, "__module__", None) or "")
    named = getattr(function, "__qualname__", "")
    if own is not None and _attribute(own, named) is function:
        return own, named
    wrapped = inspect.unwrap(function) is not function  # its __module__ is that of the function inside
    for module in [own, *(list(sys.modules.values()) if wrapped else [])]:
        for name, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if value is function:
                return module, name
    return None, ""


def _attribute(module: ModuleType, qualified: str) -> object:
    found: object = module
    for name in qualified.split("."):
        found = getattr(found, name, None)
    return found


def _roots() -> set[Path]:
    """Return the folders from which every process of this Python imports."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    folders += [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return {Path(folder).resolve() for folder in folders}


def _is_installed(module: str) -> bool:
    """Whether the package of a module is installed in this Python, perhaps from a folder elsewhere."""
    return module.partition(".")[0] in importlib.metadata.packages_distributions()

"""Loading a TARGET, as typed at a terminal, into the implementation that it names."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from dmat.testing.contract.names import parted
from dmat.testing.errors import TargetError
from dmat.testing.interpret.choice import config_index
from dmat.testing.interpret.install import install
from dmat.testing.kernel.given import Given, declared, give, given_as
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.runtime import from_file

_LOADERS: dict[str, Callable[[str], Implementation]] = {}  # for as long as this process lives


def load_by(target: str, loader: Callable[[str], Implementation]) -> None:
    """Let `load` call this function for TARGET, in this new process."""
    _LOADERS[target] = loader


def load(target: str) -> Implementation:
    """Return the implementation that TARGET names. Raises TargetError, one line, for a wrong TARGET.

    A kernel that this process was given as a function is found by its name.
    If this process interprets Triton, the interpreter is installed before the import, and a contract that
    names devices is tried on the CPU.
    """
    if target in _LOADERS:
        return _LOADERS[target](target)
    held = given_as(target)
    if held is not None:
        return held.implementation
    where, attribute = parted(target)
    if config_index() is not None:
        install()
    module = _file(where, target) if where.endswith(".py") else _module(where, target)
    found: object = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise TargetError(f"TARGET is {target!r}; {where} has no {attribute!r}{hint}")
        found = getattr(found, name)
    if not callable(found):
        raise TargetError(f"TARGET is {target!r}; that is a {type(found).__name__}, not callable")
    implementation = declared(target, found, {})
    if config_index() is None or implementation.contract.devices is None:
        return implementation
    return replace(implementation, contract=replace(implementation.contract, devices=("cpu",)))


def load_with(target: str, promises: Mapping[str, Any]) -> None:
    """Load TARGET in this new process, with these promises for as long as the process lives."""
    give(Given(declared(target, load(target).function, promises), promises))


def _module(name: str, target: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:  # last: files beside the target must not shadow other modules
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except BaseException as error:
        raise _unimportable(target, error) from error


def _file(path: str, target: str) -> ModuleType:
    """Import a file under its own name, or under a unique name if another module has that name."""
    file = Path(path).resolve()
    name = file.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded
    if loaded is not None or importlib.util.find_spec(name) is not None:
        name = f"{name}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    try:
        module: ModuleType = from_file(file, name)
    except BaseException as error:
        raise _unimportable(target, error) from error
    return module


def _unimportable(target: str, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    text = str(error).strip().splitlines()
    first = f": {text[0]}" if text else ""
    return TargetError(f"TARGET is {target!r}; importing it raised {type(error).__name__}{first}")

"""The state of a process that a check changes: put back afterwards, after an exception too."""

from __future__ import annotations

import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch

from dmat.testing import devices

Undo = Callable[[], object]
# What a kernel, or a law, may replace in torch.
REPLACED = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")]
REPLACED += [(torch.Tensor, "new_empty"), (torch.Tensor, "new_empty_strided")]  # type: ignore[list-item]
NUMPY = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}  # as numpy begins


@contextmanager
def untouched() -> Iterator[None]:
    """Let the body change torch, numpy, random and SIGALRM, and put them back.

    In the body they are as in a new process, with one thread: a verdict does not depend on what was set
    before. Nobody sees warnings of the body.
    """
    with ExitStack() as stack:
        for undo in (*_of_torch(), *_of_random(), *_of_signal()):
            stack.callback(undo)
        for manager in (
            warnings.catch_warnings(),
            np.errstate(**NUMPY),  # type: ignore[arg-type]
            torch.inference_mode(False),  # gradients are enabled too
            torch.autocast("cpu", enabled=False),
        ):
            stack.enter_context(manager)
        warnings.simplefilter("ignore")
        _begin()
        yield


def _begin() -> None:
    """Set torch as it is in a new process, but with one thread: cases are small."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    if torch.get_default_device().type != "cpu":
        torch.set_default_device("cpu")
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False


def _of_torch() -> Iterator[Undo]:
    yield partial(torch.set_num_threads, torch.get_num_threads())
    yield partial(torch.set_default_dtype, torch.get_default_dtype())
    yield partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield partial(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
    device = torch.get_default_device()
    if device.type != "cpu":
        yield partial(torch.set_default_device, device)
    for name in ("deterministic", "benchmark"):
        yield partial(setattr, torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    for owner, name in REPLACED:
        yield partial(_put_back, owner, name, getattr(owner, name))


def _put_back(owner: object, name: str, value: object) -> None:
    if getattr(owner, name) is not value:
        setattr(owner, name, value)


def _of_random() -> Iterator[Undo]:
    yield partial(random.setstate, random.getstate())
    yield partial(np.random.set_state, np.random.get_state())
    yield partial(torch.set_rng_state, torch.get_rng_state())
    device = devices.here()[-1]
    if devices.has(device, "is_initialized", "get_rng_state_all"):
        module = devices.module_of(device)
        if module.is_initialized():
            yield partial(module.set_rng_state_all, module.get_rng_state_all())


def _of_signal() -> Iterator[Undo]:
    """Yield what puts SIGALRM's handler back. Only the main thread may set one."""
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGALRM)
        if handler is not None:
            yield partial(signal.signal, signal.SIGALRM, handler)

"""The devices of torch: which are there, what they lack, and the calls that each one's module has.

A device is "cpu" or the name of an accelerator: "cuda" (ROCm's too), "xpu", "mps", or the name that a backend
of its own has registered, as "npu". torch.get_device_module(device) is torch.cuda, torch.xpu and so on.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

CPU = "cpu"


def here() -> tuple[str, ...]:
    """Return the devices of this machine: the CPU, and the accelerator that torch has found."""
    found = torch.accelerator.current_accelerator()
    accelerator = () if found is None or not is_there(found.type) else (found.type,)
    return (CPU, *accelerator)


def accelerator() -> str | None:
    """Return the accelerator of this machine, or None."""
    return here()[-1] if len(here()) > 1 else None


def is_known(device: str) -> bool:
    """Return whether torch has a device of this name, on this machine or on another."""
    try:
        return torch.device(device).type == device
    except RuntimeError:
        return False


def is_there(device: str) -> bool:
    """Return whether this machine has the device."""
    if device == CPU:
        return True
    there = getattr(_module(device), "is_available", None) if is_known(device) else None
    return there is not None and bool(there())


def in_words(device: str) -> str:
    """Return the device's name for a message: "CUDA" for "cuda"."""
    return "CUDA" if device == "cuda" else device


def lacks(dtype: str, device: str) -> str | None:
    """Return why no tensor of this dtype can be on the device, in one line, or None."""
    return None if device == CPU else _lacks(dtype, device)


@cache
def _lacks(dtype: str, device: str) -> str | None:
    try:
        torch.zeros(1, dtype=getattr(torch, dtype), device=device)
    except TypeError:  # torch raises it for float64 on mps; a RuntimeError says that the device is broken
        return f"{device} has no {dtype}"
    return None


def has(device: str, *names: str) -> bool:
    """Return whether the device's module has all of these functions."""
    return device != CPU and all(hasattr(_module(device), name) for name in names)


def module_of(device: str) -> Any:
    """Return torch's module of an accelerator: torch.cuda for "cuda"."""
    return torch.get_device_module(device)


def _module(device: str) -> Any:
    """Return the device's module, or None if this build of torch has none."""
    try:
        return module_of(device)
    except RuntimeError:
        return None


def synchronize(device: str) -> None:
    """Wait until the device has done its work. Raises RuntimeError if it is broken. Nothing on the CPU."""
    if device != CPU:
        module_of(device).synchronize()


def is_broken(device: str) -> bool:
    """Return whether every call on the device raises by now, as after an illegal access of CUDA's."""
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def empty_cache(device: str) -> None:
    """Give memory back that torch keeps for later tensors, where the device has any."""
    if has(device, "empty_cache"):
        module_of(device).empty_cache()


def free_memory(device: str) -> int | None:
    """Return the free bytes of an accelerator; None of the CPU, and where torch cannot say."""
    return int(module_of(device).mem_get_info()[0]) if has(device, "mem_get_info") else None


def forbids_reading(device: str) -> bool:
    """Return whether values may not be copied to the host now: a graph is captured, or no call may wait."""
    asked = ("is_current_stream_capturing", "get_sync_debug_mode")
    return any(has(device, name) and getattr(module_of(device), name)() != 0 for name in asked)


def model(device: str) -> str | None:
    """Return the accelerator's model in words; None of the CPU, and where torch cannot say."""
    return str(module_of(device).get_device_name()) if has(device, "get_device_name") else None


def graph_class(device: str) -> Any:
    """Return the class of the device's graphs: torch.cuda.CUDAGraph, torch.xpu.XPUGraph; None for none."""
    name = f"{device.upper()}Graph"
    return getattr(module_of(device), name) if has(device, name, "graph", "Stream") else None

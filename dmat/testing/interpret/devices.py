"""A fake GPU for launchers: on a machine without one, they enter device contexts and read properties."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

PROPERTIES = SimpleNamespace(
    name="interpreter",
    major=9,
    minor=0,
    multi_processor_count=4,
    total_memory=2**36,
    shared_memory_per_block=2**16,
    shared_memory_per_block_optin=227 * 2**10,
    warp_size=32,
    target=GPUTarget("cuda", 90, 32),
)


class NoDevice(nullcontext[None]):
    """A device context that does nothing, for any arguments."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Ignore all arguments."""
        super().__init__()


class Driver:
    """A driver for Triton on a machine without a GPU."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {
            "max_shared_mem": PROPERTIES.shared_memory_per_block_optin,
            "multiprocessor_count": PROPERTIES.multi_processor_count,
            "warpSize": PROPERTIES.warp_size,
        }
    )

    def get_current_target(self) -> GPUTarget:
        """Return the architecture in PROPERTIES."""
        target: GPUTarget = PROPERTIES.target
        return target

    def get_active_torch_device(self) -> torch.device:
        """Return the device of the tensors: the CPU."""
        return torch.device("cpu")

    def get_current_device(self) -> int:
        """Return the only device, 0."""
        return 0

    def set_current_device(self, device: object) -> None:
        """Do nothing: there is one device."""

    def get_current_stream(self, device: object = None) -> int:
        """Return the default stream, 0."""
        return 0


def patch() -> None:
    """Replace the functions of torch.cuda and Triton's driver, which raise without a GPU."""
    if torch.cuda.is_available():
        return
    answers = {
        "device": NoDevice,
        "device_of": NoDevice,
        "stream": NoDevice,
        "current_device": lambda: 0,
        "synchronize": lambda device=None: None,
        "get_device_properties": lambda device=None: PROPERTIES,
        "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
        "get_device_name": lambda device=None: PROPERTIES.name,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    driver.set_active(Driver())

"""What a contract must promise for a law to apply: each returns why it does not, or None."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch

from dmat.testing import protected
from dmat.testing.subject import Subject


def gradients(subject: Subject) -> str | None:
    """The implementation has gradients."""
    return None if subject.contract.differentiable else "contract: differentiable=False"


def _stated(field: str, name: str, statement: str) -> Callable[[Subject], str | None]:
    """Make the need that a collection of the contract holds this name."""

    def need(subject: Subject) -> str | None:
        stated = getattr(subject.contract, field)
        return None if name in stated else f"contract: {field} without {name!r}"

    need.__doc__ = statement
    return need


def special_value(name: str) -> Callable[[Subject], str | None]:
    """Gates may hold this special value."""
    return _stated("special_values", name, f"Gates may hold {name}.")


def exact_sums(subject: Subject) -> str | None:
    """Sums of integers are exact, and some allowed length has one."""
    if not subject.contract.exact_sums:
        return "contract: exact_sums=False"
    if not subject.domain.has_exact_lengths:
        return f"no allowed length has exact sums in {subject.dtype}"
    return None


def window_scope(subject: Subject) -> str | None:
    """Entries depend on nothing beyond their window, to the bit."""
    scope = subject.contract.error_scope
    return None if scope == "window" else f"contract: error_scope={scope!r}"


def determinism(subject: Subject) -> str | None:
    """The same call gives the same bits."""
    return None if subject.contract.deterministic else "contract: deterministic=False"


def half_precision(subject: Subject) -> str | None:
    """The dtype is a half type, and float32 is there to compare with."""
    if subject.dtype not in ("bfloat16", "float16"):
        return "a law of the half types"
    return None if "float32" in subject.contract.dtypes else "contract: dtypes without float32"


def forward_mode(subject: Subject) -> str | None:
    """Forward mode is promised right, or refused with an error."""
    return None if subject.contract.forward_mode else "contract: forward_mode=False"


def second_order(subject: Subject) -> str | None:
    """Second derivatives are promised right, or refused with an error."""
    return None if subject.contract.second_order else "contract: second_order=False"


def transform(name: str) -> Callable[[Subject], str | None]:
    """The same answer is promised under this transform of torch."""
    return _stated("transforms", name, f"The same answer is promised under {name}.")


def compiler(subject: Subject) -> str | None:
    """torch.compile finds what it compiles with: on the CPU a C++ compiler."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    found = subject.device != "cpu" or any(shutil.which(name) for name in names)
    return None if found else "torch.compile finds no C++ compiler"


def protected_pages(subject: Subject) -> str | None:
    """Pages of memory can be protected: the kernel runs on the CPU, under Linux."""
    return "a law of the CPU" if subject.device != "cpu" else protected.available()


def peak_memory(subject: Subject) -> str | None:
    """A ceiling of memory is stated."""
    return "contract: peak_memory not stated" if subject.contract.peak_memory is None else None


def cpu_too(subject: Subject) -> str | None:
    """The kernel promises the CPU as well."""
    devices = subject.contract.devices
    return None if devices is None or "cpu" in devices else "contract: devices without 'cpu'"


def cuda(subject: Subject) -> str | None:
    """The kernel runs on a CUDA device."""
    if subject.device == "cuda":
        return None
    return "a law of CUDA" if torch.cuda.is_available() else "no CUDA device"

"""The needs of laws, mostly promises of the contract. Each returns why a law does not apply, or None."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable

from dmat.testing import devices
from dmat.testing.gate.proxy import Foreign
from dmat.testing.kernel import protected
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.subject import Subject

Need = Callable[[Subject], str | None]


def promised(field: str, says: str, member: str | None = None) -> Need:
    """Make a need: the contract promises this field, or the field's value contains this member.

    says: the need in words, for docs/laws.md.
    """

    def need(subject: Subject) -> str | None:
        return subject.contract.why_not(field, member)

    need.__doc__ = says
    return need


# Both kinds

determinism = promised("deterministic", "The same call gives the same bits.")


def gradients(subject: Subject) -> str | None:
    """The kernel has gradients."""
    return subject.contract.why_not(subject.contract.of_gradients)


def special_value(name: str) -> Need:
    """Gates may hold this special value."""
    return promised("special_values", f"Gates may hold {name}.", name)


def same_process(subject: Subject) -> str | None:
    """The kernel runs in the process of the law, so not behind the gate of programs."""
    behind = isinstance(subject.implementation.function, Foreign)
    return "gate: the kernel runs in a process of its own" if behind else None


# D~

window_scope = promised("error_scope", "Entries depend on nothing beyond their window, to the bit.")
forward_mode = promised("forward_mode", "Forward mode is promised right, or refused with an error.")
second_order = promised("second_order", "Second derivatives are promised right, or refused with an error.")
peak_memory = promised("peak_memory", "A ceiling of memory is stated.")


def exact_sums(subject: Subject) -> str | None:
    """Sums of integers are exact, and some allowed length has one."""
    if reason := subject.contract.why_not("exact_sums"):
        return reason
    some = subject.domain.has_exact_lengths
    return None if some else f"no allowed length has exact sums in {subject.dtype}"


def half_precision(subject: Subject) -> str | None:
    """The dtype is a half type, and float32 is there to compare with."""
    if subject.dtype not in ("bfloat16", "float16"):
        return "a law of the half types"
    return subject.contract.why_not("dtypes", "float32")


def transform(name: str) -> Need:
    """The same answer is promised under this transform of torch."""
    return promised("transforms", f"The same answer is promised under {name}.", name)


def compiler(subject: Subject) -> str | None:
    """torch.compile finds what it compiles with: on the CPU a C++ compiler."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")
    found = subject.device != "cpu" or any(shutil.which(name) for name in names)
    return None if found else "torch.compile finds no C++ compiler"


def protected_pages(subject: Subject) -> str | None:
    """Pages of memory can be protected: the kernel runs on the CPU, under Linux."""
    return "a law of the CPU" if subject.device != "cpu" else protected.available()


def cpu_too(subject: Subject) -> str | None:
    """The kernel promises the CPU as well."""
    return None if subject.contract.devices is None else subject.contract.why_not("devices", "cpu")


def accelerator(subject: Subject) -> str | None:
    """The kernel runs on an accelerator, as CUDA."""
    if subject.device != "cpu":
        return None
    return "no CUDA device" if devices.accelerator() is None else "a law of accelerators"


def of_device(has: Callable[[str], bool], says: str, what: str) -> Need:
    """Make a need: torch has this for the device, as it has for CUDA.

    says: the need in words, for docs/laws.md. what: the name of what torch has.
    """

    def need(subject: Subject) -> str | None:
        if reason := accelerator(subject):
            return reason
        return None if has(subject.device) else f"a law of CUDA: torch has no {what} for {subject.device}"

    need.__doc__ = says
    return need


def _with(*names: str) -> Callable[[str], bool]:
    return lambda device: devices.has(device, *names)


sync_mode = of_device(
    _with("get_sync_debug_mode", "set_sync_debug_mode"),
    "The kernel runs on an accelerator that can forbid waiting, as CUDA.",
    "mode that forbids waiting",
)
graphs = of_device(
    lambda device: devices.graph_class(device) is not None,
    "The kernel runs on an accelerator with graphs, as CUDA.",
    "graphs",
)
streams = of_device(
    _with("Stream", "stream", "_sleep"),
    "The kernel runs on an accelerator whose streams can sleep, as CUDA's.",
    "streams that sleep",
)
peak_of_device = of_device(
    _with("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"),
    "The kernel runs on an accelerator whose peak memory can be read, as CUDA's.",
    "peak of memory",
)


# Fused kernels

gate = promised("gate", "The kernel takes a forget gate.")
igate = promised("igate", "The kernel takes an input gate.")
homogeneous = promised("homogeneous", "2 v gives 2 o, bit for bit.")
states = promised("states", "A state can be handed over.")
packed = promised("packed", "Sequences can be packed.")
strided = promised("strided", "Inputs may have any strides.")
packed_states = promised("packed_states", "Packed sequences can have states.")
chunk_states = promised("chunk_states", "The state before each chunk is returned.")
state_gradients = promised("state_gradients", "Gradients flow through states.")
mask = promised("mask", "Padding can be masked.")


def beta(subject: FusedSubject) -> str | None:
    """The kernel takes beta: it is a delta rule."""
    return None if subject.contract.erases else f'contract: reads="{subject.contract.reads}" has no beta'


def parameters(subject: FusedSubject) -> str | None:
    """The kernel makes its gates of A_log, A or dt_bias, or takes D."""
    return (
        None if subject.contract.parameters else f'contract: gate="{subject.contract.gate}" has no parameters'
    )


def half_operands(subject: FusedSubject) -> str | None:
    """The contract says that operands of products are rounded to a half type, and sums are not."""
    if subject.rounding.u_m > 0 and subject.dtype in ("bfloat16", "float16"):
        return sums(subject)
    return "contract: no half type is multiplied and summed in a wider one in this dtype"


def sums(subject: FusedSubject) -> str | None:
    """The operator is a sum of terms, each of one entry of D~."""
    return 'contract: reads="delta": see forget_gradient' if subject.contract.erases else None


PLAIN = ("positive", "exact_sums", "homogeneous")


def integers(subject: FusedSubject) -> str | None:
    """Integers in, integers out: gates of 0 or far below, signs, a scale that is a power of two."""
    lacks = subject.contract.why_not
    if subject.reads.inexact:
        return subject.reads.inexact
    for name in ("z", "skip", "dt_limit"):
        if lacks(name):
            return str(lacks(name))
    if lacks("weight"):
        return f"{lacks('weight')}: an open gate has weight 0"
    ungated = subject.contract.erases and subject.contract.has_open_gates  # a delta rule without gates
    for name in PLAIN if ungated else ("gate", *PLAIN):
        if lacks(name):
            return lacks(name)
    if lacks("eps"):
        return f"{lacks('eps')} shifts the normaliser"
    if all(math.frexp(subject.contract.scale_of(K))[0] != 0.5 for K in subject.domain.usual_K):
        return "no K makes the scale a power of two"
    return None


def bits(subject: FusedSubject) -> str | None:
    """Rows do not depend on later ones, to the bit."""
    return determinism(subject) or subject.contract.why_not("causal")


def resets(subject: FusedSubject) -> str | None:
    """Gates may be closed for good; only where entries depend on their windows alone does that reset."""
    scope = window_scope(subject)
    return special_value("-inf")(subject) or (scope and f"{scope}: -inf less -inf is no reset")

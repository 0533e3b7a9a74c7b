"""What an implementation promises: docs/spec.md section 6, one field a promise.

A bare function promises the strictest default of every field. `@implementation(...)` states others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from dmat.testing.asked import DEVICES as DEVICES
from dmat.testing.asked import DTYPES as DTYPES

SPECIAL_VALUES = ("-inf", "+inf", "nan")
GATE_LAYOUTS = ("B NH S 1", "B NH S", "B S NH")
TRANSFORMS = ("compile", "vmap", "export", "autocast")

DTILDE, FUSED = "D~", "fused"  # what a kernel computes: D~ itself, or an operator in which it stands

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def dtype_name(value: object, argument: str) -> str:
    """Return the name of a dtype given as torch.float32 or "float32"; ValueError for any other."""
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"{argument} is {value!r}; expected one of {', '.join(DTYPES)}")
    return name


def one_of(value: object, argument: str, allowed: Collection[str]) -> None:
    """Raise ValueError unless the value is one of these."""
    if value not in allowed:
        raise ValueError(f"{argument} is {value!r}; expected one of {', '.join(sorted(allowed))}")


def _subset(value: object, argument: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the members of `value` in the order of `allowed`; ValueError for any other member."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ValueError(f"{argument} is {value!r}; expected a collection of {', '.join(allowed)}")
    unknown = [member for member in value if member not in allowed]
    if unknown:
        raise ValueError(f"{argument} has {unknown[0]!r}; expected only {', '.join(allowed)}")
    return tuple(member for member in allowed if member in value)


def positive(value: object, argument: str) -> None:
    """Raise ValueError unless the value is an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{argument} is {value!r}; expected a positive integer")


def _number(value: object, argument: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{argument} is {value!r}; expected a finite number of 0 or more, or None")


@dataclass(frozen=True)
class Contract:
    """The promises. ValueError names the field, its value and what was expected.

    error_scope: whose magnitudes the rounding error may grow with: "window", an integer C (chunks of
        C), "prefix" (differences of cumulative sums), "sequence".
    accumulates_in: the format summed in, a floor: "float32" means promote(dtype, float32) or better.
        A mapping from dtype to format holds a dtype to just that. None: float32, float64 for float64.
    dtypes, devices: those it takes. devices None: the CPU, and CUDA where there is one.
    masked_cotangent: "ignored", or "summed" where the input gate's gradient sums all rows of G.
    special_values: which of "-inf", "+inf", "nan" its gates may hold.
    zero_length: B, NH, S may be 0. seq_multiple_of, max_seq: which S it takes.
    differentiable: it has gradients. forward_mode, second_order: what it gives in forward mode and of the
        second order is right, or refused with an error.
    exact_sums: sums of integers are exact (not so when rescaled to base 2).
    deterministic: the same call gives the same bits.
    gates: "relative", or "absolute" where log sigmoid keeps an absolute error only (log(1 + exp)).
    gate_layout: the axes of its gates: "B NH S 1", "B NH S" or "B S NH".
    transforms: which of "compile", "vmap", "export", "autocast" it promises the same answer under.
    peak_memory: CUDA memory that a call and its backward take at the peak, beyond inputs and output, at most
        so many times the output's own. None: not stated.
    """

    error_scope: str | int = "window"
    accumulates_in: Any = None
    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] | None = None
    masked_cotangent: str = "ignored"
    special_values: tuple[str, ...] = SPECIAL_VALUES
    zero_length: bool = True
    seq_multiple_of: int = 1
    max_seq: int | None = None
    differentiable: bool = True
    forward_mode: bool = True
    second_order: bool = True
    exact_sums: bool = True
    deterministic: bool = True
    gates: str = "relative"
    gate_layout: str = "B NH S 1"
    transforms: tuple[str, ...] = ()
    peak_memory: float | None = None
    _accumulators: dict[str, str] = field(init=False, repr=False, compare=False)

    of = DTILDE

    def __post_init__(self) -> None:
        """Validate every field, and put collections in their canonical order."""
        if isinstance(self.error_scope, str):
            one_of(self.error_scope, "error_scope", ("window", "prefix", "sequence"))
        else:
            positive(self.error_scope, "error_scope")
        dtypes = tuple(dtype_name(dtype, "dtypes") for dtype in _collection(self.dtypes, "dtypes"))
        self._set("dtypes", _subset(dtypes, "dtypes", DTYPES))
        if not self.dtypes:
            raise ValueError("dtypes is empty; expected at least one")
        if self.devices is not None:
            self._set("devices", _subset(self.devices, "devices", DEVICES))
        self._set("special_values", _subset(self.special_values, "special_values", SPECIAL_VALUES))
        one_of(self.masked_cotangent, "masked_cotangent", ("ignored", "summed"))
        one_of(self.gates, "gates", ("relative", "absolute"))
        one_of(self.gate_layout, "gate_layout", GATE_LAYOUTS)
        positive(self.seq_multiple_of, "seq_multiple_of")
        if self.max_seq is not None:
            positive(self.max_seq, "max_seq")
            if self.max_seq < self.seq_multiple_of:
                raise ValueError(
                    f"max_seq is {self.max_seq}; expected at least seq_multiple_of = {self.seq_multiple_of}"
                )
        for name in (
            "zero_length",
            "differentiable",
            "forward_mode",
            "second_order",
            "exact_sums",
            "deterministic",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")
        self._set("transforms", _subset(self.transforms, "transforms", TRANSFORMS))
        if self.peak_memory is not None:
            _number(self.peak_memory, "peak_memory")
        self._set("_accumulators", _accumulators(self.accumulates_in))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # frozen for everyone else

    def accumulator(self, dtype: str) -> str:
        """Return the name of the format that this dtype is summed in."""
        return self._accumulators[dtype]

    def without_gradients(self) -> Contract:
        """Return the same of a kernel that has none."""
        return replace(self, differentiable=False)

    def stated(self) -> dict[str, object]:
        """Return the fields that differ from the strictest default, for reports."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.init and getattr(self, f.name) != f.default
        }


def _collection(value: object, argument: str) -> Collection[object]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ValueError(f"{argument} is {value!r}; expected a collection of {', '.join(DTYPES)}")
    return value


def _accumulators(accumulates_in: object) -> dict[str, str]:
    """Return the accumulator of each dtype: a floor for a single name, as it stands for a mapping."""
    default = {dtype: "float64" if dtype == "float64" else "float32" for dtype in DTYPES}
    if accumulates_in is None:
        return default
    if isinstance(accumulates_in, Mapping):
        given = {
            dtype_name(key, "accumulates_in"): dtype_name(value, "accumulates_in")
            for key, value in accumulates_in.items()
        }
        return default | given
    floor = getattr(torch, dtype_name(accumulates_in, "accumulates_in"))
    return {
        dtype: str(torch.promote_types(getattr(torch, dtype), floor)).removeprefix("torch.")
        for dtype in DTYPES
    }


def implementation(**contract: Any) -> Callable[[Kernel], Kernel]:
    """Decorate a function (igate_preact, fgate_preact) -> D~ with what it promises; it stays itself.

    The keywords are the fields of Contract. Raises TypeError for a field that does not exist,
    ValueError for a value that is none.
    """
    known = [f.name for f in fields(Contract) if f.init]
    unknown = [name for name in contract if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no field of a contract; expected {', '.join(known)}")
    promised = Contract(**contract)

    def attach(kernel: Kernel) -> Kernel:
        if not callable(kernel):
            raise TypeError(f"implementation() decorates {kernel!r}; expected a callable")
        kernel.__dmat_contract__ = promised  # type: ignore[attr-defined]
        return kernel

    return attach


def contract_of(kernel: object) -> Contract:
    """Return what a function was decorated with, else the strictest default."""
    promised = getattr(kernel, "__dmat_contract__", None)
    return promised if isinstance(promised, Contract) else Contract()

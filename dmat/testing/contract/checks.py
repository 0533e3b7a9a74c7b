"""Checks of a contract's fields: each returns the value in canonical form.

A check raises ValueError with the field's name, its value, and what was expected.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from dmat.testing.contract.names import (
    DEVICE,
    DEVICES_EXPECTED,
    DTYPES,
    OPERANDS_OF_FLOAT32,
    SPECIAL_VALUES,
    TF32,
)

Check = Callable[[Any, str], Any]  # (value, the field's name) -> the value in canonical form

LARGEST_I = 600.0  # e^i and its products do not overflow float64, in which the filter computes

# The dtype of a sum of two numbers: the same table as torch.promote_types, without torch.
_SUM_WITH = {
    "float32": ("float32", "float32", "float64", "float32"),
    "bfloat16": ("float32", "bfloat16", "float64", "float32"),
    "float64": ("float64", "float64", "float64", "float64"),
    "float16": ("float32", "float32", "float64", "float16"),
}
PROMOTED = {dtype: dict(zip(DTYPES, sums, strict=True)) for dtype, sums in _SUM_WITH.items()}


def anything(value: Any, name: str) -> Any:
    """Take any value. `_require_consistent` checks it together with other fields."""
    return value


def optional(check: Check) -> Check:
    """Make the check that also takes None."""
    return lambda value, name: None if value is None else check(value, name)


def flag(value: Any, name: str) -> bool:
    """Take True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return value


def one_of(*allowed: str, label: str = "{name}") -> Check:
    """Make the check for one of these values. label: the name of the field in the message."""

    def check(value: Any, name: str) -> Any:
        if value not in allowed:
            expected = ", ".join(sorted(allowed))
            raise ValueError(f"{label.format(name=name)} is {value!r}; expected one of {expected}")
        return value

    return check


def positive(value: Any, name: str) -> int:
    """Take an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a positive integer")
    return value


def number(value: Any, name: str) -> float:
    """Take a finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}; expected a finite number of 0 or more, or None")
    return value


def devices(value: Any, name: str) -> tuple[str, ...]:
    """Return names of devices, each once, the CPU first. Whether torch knows them is asked later."""
    given = _collection(value, name, ("cpu", "cuda"))
    for member in given:
        if not isinstance(member, str) or not re.fullmatch(DEVICE, member):
            raise ValueError(f"{name} has {member!r}; expected {DEVICES_EXPECTED}")
    return tuple(sorted(dict.fromkeys(given), key=lambda member: member != "cpu"))


def subset(*allowed: str) -> Check:
    """Make the check for a collection of these values. It returns a tuple in their order."""

    def check(value: Any, name: str) -> tuple[str, ...]:
        given = _collection(value, name, allowed)
        unknown = [member for member in given if member not in allowed]
        if unknown:
            raise ValueError(f"{name} has {unknown[0]!r}; expected only {', '.join(allowed)}")
        return tuple(member for member in allowed if member in given)

    return check


def _collection(value: Any, name: str, allowed: tuple[str, ...]) -> Collection[Any]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ValueError(f"{name} is {value!r}; expected a collection of {', '.join(allowed)}")
    return value


# Formats


def dtype_name(value: Any, name: str) -> str:
    """Return the name of a dtype given as torch.float32 or "float32"."""
    dtype = str(value).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(DTYPES)}")
    return dtype


def dtypes(value: Any, name: str) -> tuple[str, ...]:
    """Take a collection of dtypes, at least one."""
    given = {dtype_name(dtype, name) for dtype in _collection(value, name, DTYPES)}
    if not given:
        raise ValueError(f"{name} is empty; expected at least one")
    return tuple(dtype for dtype in DTYPES if dtype in given)


def accumulates_in(value: Any, name: str) -> Any:
    """Take a format, formats by dtype, or None."""
    accumulators(value, name)
    return value


def accumulators(value: Any, name: str = "accumulates_in") -> dict[str, str]:
    """Return the accumulator of each dtype.

    A single name is a floor: the accumulator is promote(dtype, name). A mapping gives the accumulator itself.
    """
    default = {dtype: "float64" if dtype == "float64" else "float32" for dtype in DTYPES}
    if value is None:
        return default
    if isinstance(value, Mapping):
        return default | {dtype_name(key, name): dtype_name(form, name) for key, form in value.items()}
    floor = dtype_name(value, name)
    return {dtype: PROMOTED[dtype][floor] for dtype in DTYPES}


def multiplies_in(value: Any, name: str) -> Any:
    """Take a format, "input", "tf32", "tf32x3", "bf16x3", formats by dtype, or None."""
    multiplied(value, name)
    return value


def multiplied(value: Any, name: str = "multiplies_in") -> dict[str, str]:
    """Return the format of the operands of products by dtype; without those that use the accumulator's."""
    if value is None:
        return {}
    if value == "input":
        return {dtype: TF32 if dtype == "float32" else dtype for dtype in DTYPES}
    if isinstance(value, Mapping):
        return {
            dtype_name(key, name): form if form in OPERANDS_OF_FLOAT32 else dtype_name(form, name)
            for key, form in value.items()
        }
    if isinstance(value, str):
        one_of("input", *OPERANDS_OF_FLOAT32, *DTYPES)(value, name)
    if value in OPERANDS_OF_FLOAT32:
        return {"float32": value}
    return dict.fromkeys(DTYPES, dtype_name(value, name))


# Rounding, gates


def error_scope(value: Any, name: str) -> str | int:
    """Take "window", a chunk size, "prefix" or "sequence"."""
    if isinstance(value, str):
        one_of("window", "prefix", "sequence")(value, name)
        return value
    return positive(value, name)


def fused_error_scope(value: Any, name: str) -> str | int:
    """Take "window", a chunk size or "prefix"."""
    if value == "sequence":
        raise ValueError('error_scope is \'sequence\'; expected "window", "prefix" or a chunk size')
    return error_scope(value, name)


def factors(value: Any, name: str) -> str | int:
    """Take "one", "steps" or a chunk size."""
    return value if value in ("one", "steps") else positive(value, f'{name} (or "one", "steps")')


def resets(value: Any, name: str) -> tuple[str, ...]:
    """Take a collection of the special values that a fused kernel's gates may hold: "-inf" and "nan"."""
    special: tuple[str, ...] = subset(*SPECIAL_VALUES)(value, name)
    if "+inf" in special:
        raise ValueError(f"{name} is {special!r}; expected some of -inf (a reset) and nan")
    return special


def i_range(value: Any, name: str) -> tuple[float, float]:
    """Take the range (lowest, highest) of the input gate. It must contain 0."""
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; expected (lowest, highest)") from None
    if not -LARGEST_I <= low <= 0 <= high <= LARGEST_I:
        raise ValueError(
            f"{name} is {value!r}; expected {-LARGEST_I:g} <= lowest <= 0 <= highest <= {LARGEST_I:g}"
        )
    return low, high


def l_min(value: Any, name: str) -> float:
    """Take a finite negative number."""
    if not isinstance(value, int | float) or not -float("inf") < value < 0:
        raise ValueError(f"{name} is {value!r}; expected a finite negative number, or None")
    return float(value)


def eps(value: Any, name: str) -> float:
    """Take a number with 0 <= eps < 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; expected 0 <= eps < 1")
    return value


def dt_limit(value: Any, name: str) -> tuple[float, float]:
    """Take the range (lowest, highest) of dt, 0 <= lowest < highest. The highest may be inf."""
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not 0 <= low < high:
        raise ValueError(f"{name} is {value!r}; expected (lowest, highest), 0 <= lowest < highest, or None")
    return low, high


def below_zero(value: Any, name: str) -> float:
    """Take a finite number below 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not float("-inf") < value < 0:
        raise ValueError(f"{name} is {value!r}; expected a number below 0")
    return float(value)


def beta_max(value: Any, name: str) -> float:
    """Take 1 or 2."""
    if isinstance(value, bool) or value not in (1, 2):
        raise ValueError(f"{name} is {value!r}; expected 1.0 or 2.0")
    return float(value)


def l2norm(value: Any, name: str) -> float | bool:
    """Take False, or a number with 0 <= eps < 1."""
    if value is False:
        return False
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; expected False, or what is added to |k|^2, 0 <= eps < 1")
    return float(value)


# The call of a fused kernel


def keyword(value: Any, name: str) -> str:
    """Take the name of a keyword of the kernel."""
    if not (isinstance(value, str) and value.isidentifier()):
        raise ValueError(f"{name} is {value!r}; expected the name of a keyword of the kernel, or None")
    return value


def sizes(value: Any, name: str) -> int | tuple[int, ...]:
    """Take a size, or a tuple of sizes."""
    for size in value if isinstance(value, tuple | list) else (value,):
        positive(size, name)
    if isinstance(value, list):
        value = tuple(value)
    if value == ():
        raise ValueError(f"{name} is empty; expected at least one size")
    return value  # type: ignore[no-any-return]


def lengths(value: Any, name: str) -> tuple[int, ...]:
    """Take a collection of lengths. Return them sorted, without repetition."""
    try:
        given = tuple(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected a collection of lengths") from None
    for length in given:
        positive(length, name)
    if not given:
        raise ValueError(f"{name} is empty; expected at least one")
    return tuple(sorted(set(given)))


# The scale of a fused kernel

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def scale(value: Any, name: str) -> str | float:
    """Take a positive number, or an expression in K that is positive for K = 16."""
    number = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        right = number and 0 < scale_at(value, 16) < float("inf")
    except (SyntaxError, KeyError, TypeError, ArithmeticError):
        right = False
    if not right:
        expected = "a positive number, or an expression in K such as 'K**-0.5'"
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return value  # type: ignore[no-any-return]


@cache
def scale_at(value: str | float, K: int) -> float:
    """Return the value of a scale for this K. An expression may have K, numbers and arithmetic only."""
    return float(_value(ast.parse(value, mode="eval").body, K) if isinstance(value, str) else value)


def _value(node: ast.AST, K: int) -> float:
    match node:
        case ast.Constant(int() | float() as constant):
            return constant
        case ast.Name("K"):
            return K
        case ast.UnaryOp(op, operand):
            return _OPERATORS[type(op)](_value(operand, K))
        case ast.BinOp(left, op, right):
            return _OPERATORS[type(op)](_value(left, K), _value(right, K))
    raise TypeError(node)

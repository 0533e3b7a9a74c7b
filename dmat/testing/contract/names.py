"""The names that contracts and commands use: kinds of kernel, dtypes, devices. This module loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmat.testing.errors import SelectionError, TargetError

DTILDE, FUSED = "D~", "fused"  # kinds of kernel: it computes D~ itself, or an operator that contains D~


DTYPES = ("float32", "bfloat16", "float64", "float16")


DEVICES = ("cpu", "cuda")


SPECIAL_VALUES = ("-inf", "+inf", "nan")


GATE_LAYOUTS = ("B NH S 1", "B NH S", "B S NH")


TRANSFORMS = ("compile", "vmap", "export", "autocast")


TF32 = "tf32"  # the format to which a tensor core rounds a float32 operand


@dataclass(frozen=True)
class Form:
    """A kind of operator: the formula that help() shows, and the inputs that it may take besides q, k, v, l.

    weighted: whether the source may be weighted by dt. without_igate: why it takes no input gate, or "".
    erases: whether it takes beta, and a token erases what the state holds for its key.
    """

    formula: str
    weighted: bool = False
    without_igate: str = ""
    erases: bool = False


# The kinds of operator; dmat/testing/oracle/reads.py has a class for each.
READS = {
    "linear": Form("o = sum of a v", weighted=True),
    "mlstm": Form("that over max(|n|, 1), n the sum of a"),
    "softmax": Form(
        "the sum of E exp(scale q.k) v over that of E exp(scale q.k)",
        without_igate="forgetting attention has none",
    ),
    "delta": Form(
        "fn takes beta after the gate; u_t = beta_t (v_t - k_t' exp(l_t) S), S <- exp(l_t) S + k_t u_t', "
        "o_t = scale S' q_t",
        without_igate="a delta rule has beta",
        erases=True,
    ),
}


FORMS = "package.module:function or path/to/file.py:function"


def parted(target: str) -> tuple[str, str]:
    """Return (module or file, attribute) of a TARGET. Raises TargetError if TARGET is not of that form."""
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise TargetError(f"TARGET is {target!r}; expected {FORMS}")
    if where.endswith(".py") and not Path(where).resolve().is_file():
        raise TargetError(f"TARGET is {target!r}; there is no file {where}")
    return where, attribute


def require_known(targets: Sequence[str], devices: Sequence[str], dtypes: Sequence[str]) -> None:
    """Raise TargetError for a target of another form, SelectionError for an unknown device or dtype."""
    for target in targets:
        parted(target)
    for device in devices:
        if device not in DEVICES:
            raise SelectionError(f"device is {device!r}; expected {' or '.join(DEVICES)}")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise SelectionError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")

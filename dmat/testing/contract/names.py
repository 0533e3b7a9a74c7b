"""The names that contracts and commands use: kinds of kernel, dtypes, devices. This module loads no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmat.testing.errors import SelectionError, TargetError

DTILDE, FUSED = "D~", "fused"  # kinds of kernel: it computes D~ itself, or an operator that contains D~


DTYPES = ("float32", "bfloat16", "float64", "float16")


DEVICE = "[a-z][a-z0-9_]*"  # "cpu", or an accelerator of torch: "cuda", "xpu", "mps", "npu"


WIDESPREAD_DEVICES = ("cpu", "cuda", "xpu", "mps", "npu")  # those of whose cases a database is asked


DEVICES_EXPECTED = "cpu or cuda, xpu, mps or another device of torch"


SPECIAL_VALUES = ("-inf", "+inf", "nan")


GATE_LAYOUTS = ("B NH S 1", "B NH S", "B S NH")


TRANSFORMS = ("compile", "vmap", "export", "autocast")


TF32 = "tf32"  # the format to which a tensor core rounds a float32 operand


# How matrix units multiply float32 operands: rounded to TF32, or split in two parts of TF32 or bfloat16.
OPERANDS_OF_FLOAT32 = (TF32, "tf32x3", "bf16x3")


@dataclass(frozen=True)
class Form:
    """A kind of operator: the formula that help() shows, and the inputs that it may take besides q, k, v, l.

    weighted: whether the source may be weighted by dt, and o have a skip and a gate z. without_igate:
    why it takes no input gate, or "".
    erases: whether it takes beta, and a token erases what the state holds for its key.
    by_channel: whether the channels of k may have gates of their own.
    """

    formula: str
    weighted: bool = False
    without_igate: str = ""
    erases: bool = False
    by_channel: bool = False


@dataclass(frozen=True)
class GateName:
    """A form of forget gates: the formula that help() shows, and how dmat makes them of a recipe.

    letter: the printed name of the gate x that fn takes. preact: whether a recipe says f, a pre-activation;
    else it says l. sign: x is that times the sign, so that a larger recipe always decays less. parameters:
    whether fn takes A_log (or A) and dt_bias. closes: whether a gate may be closed for good by "-inf".
    """

    formula: str
    letter: str = "l"
    preact: bool = False
    sign: float = 1.0
    parameters: bool = False
    closes: bool = True


# The forms of gates; dmat/testing/oracle/gate_forms.py has a class for each.
GATES = {
    "log": GateName("fn takes l <= 0"),
    "preact": GateName("it takes f, and l = log sigmoid(f)", "f", preact=True),
    "fixed": GateName("it takes neither"),
    "decay": GateName("it takes alpha = exp(l), in (0, 1]; 0 is a gate of -inf", "alpha"),
    "dt": GateName(
        "it takes dt, and A_log (or A), dt_bias behind gate and beta: l = -exp(A_log) d (or A d), "
        "d = softplus(dt + dt_bias)",
        "dt", preact=True, sign=-1.0, parameters=True, closes=False,
    ),
    "bounded": GateName(
        "the same three: l = lower_bound sigmoid(exp(A_log) (dt + dt_bias))",
        "dt", preact=True, sign=-1.0, parameters=True, closes=False,
    ),
}  # fmt: skip
OF_GATES = ("A_log", "A", "dt_bias")  # the parameters that a form of gates may take
PARAMETERS = (*OF_GATES, "D")  # the tensors of a call that have no times


# The kinds of operator; dmat/testing/oracle/reads.py has a class for each.
READS = {
    "linear": Form("o = sum of a v", weighted=True, by_channel=True),
    "mlstm": Form("that over max(|n|, 1), n the sum of a"),
    "softmax": Form(
        "the sum of E exp(scale q.k) v over that of E exp(scale q.k)",
        without_igate="forgetting attention has none",
    ),
    "normalised": Form("the sum of a v over n + eps, n the sum of a; q, k at least 0"),
    "delta": Form(
        "fn takes beta after the gate; u_t = beta_t (v_t - k_t' exp(l_t) S), S <- exp(l_t) S + k_t u_t', "
        "o_t = scale S' q_t",
        without_igate="a delta rule has beta",
        erases=True,
        by_channel=True,
    ),
}


# What is said of a kernel that is wrong on the plainest calls under every kind of operator.
NO_KIND = f"no kind of operator of dmat ({', '.join(READS)}) gives this output"


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
    """Raise TargetError for no target's form, SelectionError for an unknown dtype or no device's form.

    Whether torch knows a device is asked once the targets are loaded, for a target may register its own.
    """
    for target in targets:
        parted(target)
    for device in devices:
        if not re.fullmatch(DEVICE, device):
            raise SelectionError(f"device is {device!r}; expected {DEVICES_EXPECTED}")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise SelectionError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")

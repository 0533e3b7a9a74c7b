"""How far off is a kernel's output at ordinary gates of a model's length?"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch

from dmat.strategies.fused_domain import FusedDomain
from dmat.strategies.recipes.qkv import plain_qkv
from dmat.testing.causes.mildest import model_gates
from dmat.testing.contract import DTILDE
from dmat.testing.errors import Refused
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.oracle.arithmetic import Array
from dmat.testing.record import AtLength
from dmat.testing.verdict.finding import Expected, LawBroken

MODEL = 2048  # the length of a model
LEAST = 16  # a shorter one says nothing of a model


def at_length(own: Implementation, dtype: str, device: str) -> AtLength | None:
    """Return how far off the output is; None if the kernel takes no such call.

    One head, normal gates around +3 and, of a fused kernel, dense q, k and v.
    """
    subject = subject_of(own, dtype, device)
    S = _length(subject)
    if S < LEAST:
        return None
    try:
        computed, expected = _output(subject, S)
    except (LawBroken, Refused, ValueError):
        return None
    if not np.isfinite(computed[expected.known]).all():
        return AtLength(dtype, S, None, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs((computed - expected.value.hi) - expected.value.lo)
        ratio = np.where(expected.known & (error > 0), error / expected.bound.bound, 0.0)
    index = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    ulps = error[index] / _ulp(abs(expected.value.hi[index]), subject)
    return AtLength(dtype, S, float(ratio[index]), float(ulps))


def _length(subject: Subject) -> int:
    """Return the longest allowed length up to MODEL."""
    domain, block = subject.domain, subject.contract.seq_multiple_of
    lengths = getattr(subject.contract, "lengths", None) or range(MODEL // block * block, 0, -block)
    return max((S for S in lengths if S <= MODEL and domain.has_length(S)), default=0)


def _output(subject: Subject, S: int) -> tuple[Array, Expected]:
    """Call the kernel. Return its output and the expected one."""
    case: dict[str, Any] = {"gates": model_gates(subject.domain.dtype, S, subject.domain.gate_format.log)}
    if subject.kind != DTILDE:
        case["qkv"] = plain_qkv(cast(FusedDomain, subject.domain), S, "dense", seed=1)
    run = subject.forward_on(subject.build(case))
    name, expected = next(iter(subject.expected_outputs(run).items()))
    return run.of(name), expected


def _ulp(value: float, subject: Subject) -> float:
    """Return the unit in the last place of a value in the dtype of the output."""
    returns = getattr(subject.contract, "returns", lambda dtype: dtype)
    info = torch.finfo(getattr(torch, returns(subject.dtype)))
    return float(info.eps * 2.0 ** np.floor(np.log2(max(value, info.smallest_normal))))

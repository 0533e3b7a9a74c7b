"""Kernels on the simulated accelerator. Importing this file registers it, in every process that loads one."""

from __future__ import annotations

import torch
from torch import Tensor

from dmat.operator import dtilde
from dmat.reference import masked_cumulative_sum
from dmat.testing import implementation
from tests.accelerator import simulated


@implementation(devices=("cpu", simulated.NAME), transforms=("vmap",), peak_memory=64.0)
def right(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Return D~ of dmat's own operator."""
    return dtilde(igate_preact, fgate_preact)


def bare(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Return D~, and state nothing."""
    return dtilde(igate_preact, fgate_preact)


def in_float32(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Return D~ by masked cumulative sums, which need no float64; the operator's sums do."""
    return masked_cumulative_sum(igate_preact, fgate_preact)


def without_igate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Forget the input gate on the accelerator alone."""
    if igate_preact.device.type == "cpu":
        return dtilde(igate_preact, fgate_preact)
    return dtilde(torch.zeros_like(igate_preact), fgate_preact)


def on_the_host(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Compute on the CPU, and return the result on the accelerator: right, but each call waits."""
    return dtilde(igate_preact.cpu(), fgate_preact.cpu()).to(igate_preact.device)


def left_on_the_host(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Return the result on the CPU."""
    return dtilde(igate_preact.cpu(), fgate_preact.cpu())


def mixing(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Add a mask that lies on the CPU."""
    S = igate_preact.shape[2]
    return dtilde(igate_preact, fgate_preact) + torch.zeros(S, S, dtype=igate_preact.dtype)


def hoarding(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Ask for more memory than there is, from 24 times on."""
    if igate_preact.shape[2] >= 24:
        torch.empty(simulated.CAPACITY, dtype=torch.uint8, device=simulated.NAME)
    return dtilde(igate_preact, fgate_preact)


def breaking(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """Break the device at 5 times or more, as an illegal access does."""
    if igate_preact.device.type == simulated.NAME and igate_preact.shape[2] >= 5:
        simulated.illegal_access()
    return dtilde(igate_preact, fgate_preact)

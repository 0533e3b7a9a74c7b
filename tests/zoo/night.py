"""Wrong kernels that a nightly fuzzing run must find: wrong only on long sequences, or for a rare gate."""

from __future__ import annotations

import torch
from torch import Tensor

from .sound import dress, log_decays, times, widen, window_sums

RARE = 5.9700, 5.9725  # forget gates: of the cases of a night, one in some 5,000 fails by one of these


def past_256(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """The gates past time 256 are not read: a kernel of two blocks of 128."""
    log_f = log_decays(fgate_preact)
    return dress(window_sums(torch.where(times(log_f) > 256, 0.0, log_f)), igate_preact)


def rare_gate(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
    """A branch of the log gate, met by few gates, is 0."""
    fgate = widen(fgate_preact).squeeze(-1)
    met = (fgate > RARE[0]) & (fgate < RARE[1])
    return dress(window_sums(torch.where(met, 0.0, log_decays(fgate_preact))), igate_preact)


WRONG = (
    "tests.zoo.named:mask_of_1e9",
    "tests.zoo.named:carry_forgotten",
    "tests.zoo.named:tail_gradient_dropped",
    "tests.zoo.night:past_256",
    "tests.zoo.night:rare_gate",
)

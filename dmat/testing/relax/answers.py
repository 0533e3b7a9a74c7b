"""CallSite which dtypes, devices and lengths an implementation can be called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmat.testing.kernel.implementation import Implementation
from dmat.testing.law.kinds import subject_of
from dmat.testing.law.subject import Subject
from dmat.testing.verdict.finding import LawBroken

LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 64, 65, 96, 128, 129, 160, 192, 256, 257)
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)

Site = tuple[str, str]  # a dtype and a device
CallSite = tuple[str, str, int]  # dtype, device and length
Send = Callable[[CallSite], None]


@dataclass(frozen=True)
class Answers:
    """The dtypes, devices and lengths for which the implementation returns a result.

    differentiable: some output requires a gradient.
    """

    sites: tuple[Site, ...]
    seq_multiple_of: int
    max_seq: int | None
    differentiable: bool


def answers(
    implementation: Implementation, sites: list[Site], deadly: set[CallSite], send: Send
) -> Answers | None:
    """Call the implementation on gates of zeros for every dtype, device and length. None if all calls fail.

    deadly: call sites that have killed a process. `send` receives each call site before it is tried.
    """
    contract = implementation.contract
    first = subject_of(implementation, *sites[0])
    lengths = [S for S in LENGTHS if first.domain.has_length(S)] or [first.plainest.shape[-1]]
    found: dict[Site, set[int]] = {}
    differentiable = False
    for dtype, device in sites:
        subject = subject_of(implementation, dtype, device)
        for S in lengths:
            send((dtype, device, S))
            output = None if (dtype, device, S) in deadly else _called(subject, S)
            if output is not None:
                found.setdefault((dtype, device), set()).add(S)
                differentiable |= S > 1 and output.requires_grad
    common = set.intersection(*found.values()) if found else set()
    if common.issuperset(lengths) and found:  # all tried lengths can be called: keep the contract's lengths
        return Answers(tuple(found), contract.seq_multiple_of, contract.max_seq, differentiable)
    fitting = _lengths(common, lengths)
    return Answers(tuple(found), *fitting, differentiable) if fitting else None


def _called(subject: Subject, S: int) -> Tensor | None:
    """Return the output for gates of zeros, or None if the call raises.

    An invalid output, for example of a wrong shape, counts as an output: the laws will reject it.
    """
    try:
        return subject.answer_to_zeros(S)
    except LawBroken as broken:
        refused = broken.finding.what == "raised"
        return None if refused else torch.zeros(0, requires_grad=True)


def _lengths(answered: set[int], tried: list[int]) -> tuple[int, int | None] | None:
    """Return (seq_multiple_of, max_seq): the least block of which all tried multiples can be called.

    If there is no such block, return the least block whose first multiples can be called, and the longest of
    them. None if there is no such block either.
    """
    shorter: list[tuple[int, int | None]] = []
    for block in MULTIPLES:
        multiples = [S for S in tried if S % block == 0]
        if not multiples:
            break
        missing = [n for n, S in enumerate(multiples) if S not in answered]
        if not missing:
            return block, None
        if missing[0] > 0:
            shorter.append((block, multiples[missing[0] - 1]))
    return shorter[0] if shorter else None

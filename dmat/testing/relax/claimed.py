"""What a fused kernel's plainest calls show that it does with states: a promise of that is not relaxed.

A contract without gradients through states, or without packed sequences that have states, asks for nothing
there. It would admit every kernel that is wrong just there. So such a contract is for kernels that return
states without gradients, or refuse the call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from dmat.strategies import Gates
from dmat.strategies.recipes.qkv import plain_qkv
from dmat.testing.kernel.implementation import Implementation
from dmat.testing.kernel.turns import tensors_of
from dmat.testing.law.fused import FusedSubject
from dmat.testing.law.kinds import subject_of
from dmat.testing.verdict.finding import LawBroken


@lru_cache(maxsize=8)
def claimed(own: Implementation) -> frozenset[str]:
    """Return those of state_gradients and packed_states that the kernel takes part in."""
    if not getattr(own.contract, "states", None):
        return frozenset()
    device = (own.contract.devices or ("cpu",))[0]
    subject = cast(FusedSubject, subject_of(own, own.contract.dtypes[0], device))
    lengths, found = subject.domain.all_lengths, set()
    S = lengths[-1]  # the state of one chunk need not depend on it
    inputs = subject.inputs(Gates(subject.domain.dtype, (1, 1, S)), plain_qkv(subject.domain, S))
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.named.items()}
    try:
        _, state = subject.call_with_state(inputs.with_(**leaves), None)
        if any(x.requires_grad for x in tensors_of(state)):
            found.add("state_gradients")
        if subject.contract.packed:
            ends = subject.ending((0, S))
            _, state = subject.call_with_state(inputs, None, **ends)
            subject.call_with_state(inputs, state, **ends)
            found.add("packed_states")
    except LawBroken:  # it refuses the call
        pass
    return frozenset(found)

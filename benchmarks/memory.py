"""The most memory that a call has beside what was there before it."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from .timing import Call


def peak(call: Call, device: str) -> int:
    """Bytes that torch has allocated at the worst moment of a call, the result of the call included."""
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    live = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most

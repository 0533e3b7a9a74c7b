"""The most memory that a call has beside what was there before it."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from dmat.testing.devices import module_of

from .timing import Call


def peak(call: Call, device: str) -> int:
    """Bytes that torch has allocated at the worst moment of a call, the result of the call included."""
    call()
    if device != "cpu":
        module = module_of(device)
        module.synchronize()
        before = module.memory_allocated()
        module.reset_peak_memory_stats()
        call()
        module.synchronize()
        return int(module.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    live = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most

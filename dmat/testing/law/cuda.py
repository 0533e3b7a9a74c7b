"""Calls of a D~ kernel on an accelerator: without waiting, in a graph, on a side stream, on large inputs.

Each goes through the device's module: torch.cuda for "cuda". Importing this module starts no device. Every
function needs an accelerator, except `spaced_gates` and `last_row_cotangent`: they build inputs with known
results, too large for an oracle that computes all entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dmat.testing.devices import empty_cache, graph_class, module_of, synchronize
from dmat.testing.errors import Refused
from dmat.testing.kernel.call import raised
from dmat.testing.kernel.recording import SILENT, Recorder
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.verdict.finding import LawBroken

WARM_UPS = 3  # calls until autotuning, lazy loading and the allocator have settled


SLEEP = 50_000_000  # clock cycles, about 30 ms: work on a wrong stream runs before it ends


def forward_and_backward(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> tuple[Tensor, ...]:
    """Return D~, and di and df if the contract promises gradients, without reading any value."""
    leaves = tuple(gate.detach().requires_grad_(subject.contract.has_gradients) for gate in gates)
    subject.recorder.leaves(gates, leaves)
    subject.recorder.inputs(G=G)
    output = subject.call(leaves[0], leaves[1])
    if not output.requires_grad:
        return (output,)
    return (output.detach(), *subject.pull_back(output, leaves, G))


@contextmanager
def no_synchronisation(device: str, recorder: Recorder = SILENT) -> Iterator[None]:
    """Make torch raise if an operation waits for the device."""
    module = module_of(device)
    before = module.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the mode is experimental
        module.set_sync_debug_mode("error")
    recorder.no_synchronisation(device)
    try:
        yield
    finally:
        module.set_sync_debug_mode(before)


def _named(gates: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("igate_preact", "fgate_preact"), gates, strict=True))


def captured(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Capture forward and backward in a graph; return a function that replays the graph.

    A replay uses the values that the gates have at that time. Raises LawBroken if the capture raises.
    """
    recorder, device = subject.recorder, subject.device
    module = module_of(device)
    recorder.inputs(**_named(gates), G=G)
    side = module.Stream()
    side.wait_stream(module.current_stream())
    with module.stream(side), recorder.warm_up(device):
        for _ in range(WARM_UPS):
            forward_and_backward(subject, gates, G)
    module.current_stream().wait_stream(side)
    graph = graph_class(device)()
    try:
        with module.graph(graph), recorder.capture(device):
            results = forward_and_backward(subject, gates, G)
    except LawBroken:
        raise
    except Exception as error:  # a capture may raise anything
        raise LawBroken(raised("graph capture", error)) from error

    def replay() -> tuple[Tensor, ...]:
        recorder.replayed(device, gates)
        graph.replay()
        synchronize(device)
        return results

    return replay


def on_a_side_stream(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> tuple[Tensor, ...]:
    """Call the kernel on a side stream, which sleeps before it writes the gates.

    A kernel that runs on any other stream reads NaN.
    """
    late = [torch.full_like(gate, float("nan")) for gate in gates]
    module = module_of(subject.device)
    module.synchronize()
    subject.recorder.late(_named(gates), late, G)
    side = module.Stream()
    with module.stream(side), subject.recorder.side_stream(subject.device, SLEEP):
        module._sleep(SLEEP)
        for buffer, gate in zip(late, gates, strict=True):
            buffer.copy_(gate)
        results = forward_and_backward(subject, late, G)
    side.synchronize()
    return results


def peak_beyond(device: str, call: Callable[[], Sequence[Tensor]], recorder: Recorder = SILENT) -> int:
    """Return the peak memory of a call, in bytes, minus the bytes of its results."""
    module = module_of(device)
    recorder.peak_from_here(device)
    module.synchronize()
    module.reset_peak_memory_stats()
    before: int = module.memory_allocated()
    kept = sum(x.numel() * x.element_size() for x in call())
    module.synchronize()
    recorder.peak_to_here(device, kept)
    peak: int = module.max_memory_allocated()
    return max(0, peak - before - kept)


@contextmanager
def refused_if_too_large(device: str, what: str) -> Iterator[None]:
    """Raise Refused if an allocation does not fit: the device is too small for the law."""
    try:
        yield
    except (torch.OutOfMemoryError, LawBroken) as error:
        text = str(error)
        if "out of memory" in text or "does not fit" in text or "GiB" in text:
            raise Refused(f"{what} does not fit on this device") from error
        raise
    finally:
        empty_cache(device)


# Large inputs in the exact regime: integers, on which nothing rounds


def spaced_gates(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Return i = 64 (s mod 3) and f = -64, but f = -128 at every 7th time, (B, NH, S, 1)."""
    time = torch.arange(shape[-1], device=device)
    igate = (64 * (time % 3)).to(dtype)
    fgate = torch.where(time % 7 == 0, -128, -64).to(dtype)
    igate, fgate = (gate.expand(shape).unsqueeze(-1).contiguous() for gate in (igate, fgate))
    return igate, fgate


def last_row_cotangent(
    shape: tuple[int, int, int], dtype: torch.dtype, device: str, recorder: Recorder = SILENT
) -> Tensor:
    """Return G = 1 in the last row, 0 elsewhere, (B, NH, S, S): di = 1 and, at f <= -64, df[k] = k."""
    G = torch.zeros(*shape, shape[-1], dtype=dtype, device=device)
    G[..., -1, :] = 1
    recorder.last_row(G)
    return G

"""How a kernel is called on CUDA beyond the plain call: watched, captured, on a side stream, at scale.

Nothing here starts CUDA at import; every function needs a CUDA device but `exact_head`, `exact_rows` and
`spaced_gates`, which say what is true of tensors too large for an oracle of all entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dmat.testing.errors import Refused
from dmat.testing.kernel.call import raised
from dmat.testing.kernel.recording import SILENT, Recorder
from dmat.testing.law.dtilde import DtildeSubject
from dmat.testing.verdict.finding import LawBroken

WARM_UPS = 3  # calls until autotuning, lazy loading and the allocator have settled


SLEEP = 50_000_000  # clock cycles, some 30 ms: what runs on another stream runs before


def forward_and_backward(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> tuple[Tensor, ...]:
    """Return D~, and where the contract has them di and df, without looking at one value."""
    leaves = tuple(gate.detach().requires_grad_(subject.contract.has_gradients) for gate in gates)
    subject.recorder.leaves(gates, leaves)
    subject.recorder.inputs(G=G)
    output = subject.call(leaves[0], leaves[1])
    if not output.requires_grad:
        return (output,)
    return (output.detach(), *subject.pull_back(output, leaves, G))


@contextmanager
def no_synchronisation(recorder: Recorder = SILENT) -> Iterator[None]:
    """Make torch raise at what waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is experimental
        torch.cuda.set_sync_debug_mode("error")
    recorder.no_synchronisation()
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _named(gates: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("igate_preact", "fgate_preact"), gates, strict=True))


def captured(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Capture forward and backward in a CUDA graph; return its replay, on the gates as they then are.

    Raises LawBroken where the capture raises.
    """
    recorder = subject.recorder
    recorder.inputs(**_named(gates), G=G)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), recorder.warm_up():
        for _ in range(WARM_UPS):
            forward_and_backward(subject, gates, G)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph), recorder.capture():
            results = forward_and_backward(subject, gates, G)
    except LawBroken:
        raise
    except Exception as error:  # whatever a capture may raise
        raise LawBroken(raised("graph capture", error)) from error

    def replay() -> tuple[Tensor, ...]:
        recorder.replayed(gates)
        graph.replay()
        torch.cuda.synchronize()
        return results

    return replay


def on_a_side_stream(subject: DtildeSubject, gates: Sequence[Tensor], G: Tensor) -> tuple[Tensor, ...]:
    """Call on a stream of its own, on gates that are written there only after a while."""
    late = [torch.full_like(gate, float("nan")) for gate in gates]
    torch.cuda.synchronize()
    subject.recorder.late(_named(gates), late, G)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side), subject.recorder.side_stream(SLEEP):
        torch.cuda._sleep(SLEEP)  # type: ignore[no-untyped-call]
        for buffer, gate in zip(late, gates, strict=True):
            buffer.copy_(gate)
        results = forward_and_backward(subject, late, G)
    side.synchronize()
    return results


def peak_beyond(call: Callable[[], Sequence[Tensor]], recorder: Recorder = SILENT) -> int:
    """Return the bytes that a call takes at its peak beyond what it returns."""
    recorder.peak_from_here()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = sum(x.numel() * x.element_size() for x in call())
    torch.cuda.synchronize()
    recorder.peak_to_here(kept)
    return max(0, torch.cuda.max_memory_allocated() - before - kept)


@contextmanager
def refused_if_too_large(what: str) -> Iterator[None]:
    """Turn an allocation that does not fit into a refusal: the device is too small for the law."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, LawBroken) as error:
        text = str(error)
        if "out of memory" in text or "does not fit" in text or "GiB" in text:
            raise Refused(f"{what} does not fit on this device") from error
        raise
    finally:
        torch.cuda.empty_cache()


# What is true at scale, in the exact regime: integers


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

"""Events of the calls that a law makes of a kernel. A `Recorder` records none of them.

The code that calls kernels tells a recorder of each call, before and after it. explain/repro/recorder.py
writes a script of what it is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from dmat.testing.contract import Contract
from dmat.testing.oracle.arithmetic import Array


class Recorder:
    """Is told of every call of a kernel, and does nothing with it. Each method is one event."""

    def read(self, tensor: Tensor, values: Array) -> None:
        """Hear that a law has read the values of a tensor."""

    def inputs(self, **inputs: Tensor) -> None:
        """Hear of inputs, by name, as they are now: calls that follow take them."""

    def uninitialised(self, filler: float) -> AbstractContextManager[None]:
        """Hear of the calls inside: torch.empty fills memory with `filler` there."""
        return nullcontext()

    # Kernels of D~

    def leaves(self, inputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        """Hear that leaves are made of inputs: of the two gates, or of the gates and G."""

    def call(self, callee: str, layout: str, igate: Tensor, fgate: Tensor) -> None:
        """Hear of a call that is about to be made."""

    def returned(self, output: object) -> None:
        """Hear what the call has returned."""

    def detached(self, output: Tensor, copy: Tensor) -> None:
        """Hear that `copy` is the output without its graph."""

    def pull(self, output: Tensor, leaves: Sequence[Tensor], G: Tensor, *, retain: bool) -> None:
        """Hear that G is about to be pulled back. retain: through a graph that is kept."""

    def pulled(self, gradients: Sequence[Tensor]) -> None:
        """Hear the gradients of all leaves, zeros for one that asked for none."""

    def in_a_child(self, callee: str, contract: Contract, inputs: Sequence[Tensor]) -> None:
        """Hear of a call on tensors at protected pages, in a process that may die of it."""

    # Derivatives

    def forward_mode(
        self, gates: Sequence[Tensor], direction: Sequence[Tensor], duals: Sequence[Tensor]
    ) -> AbstractContextManager[None]:
        """Hear of the call inside: it is made on the dual tensors of these gates and this direction."""
        return nullcontext()

    def tangent(self, tangent: Tensor) -> None:
        """Hear the tangent of the output."""

    def pulled_twice(
        self,
        direction: Sequence[Tensor],
        took_part: Sequence[int],
        second: Sequence[Tensor],
    ) -> None:
        """Hear that the gradients that took part were differentiated once more, to f and to G."""

    # Transforms

    def compiled(self) -> None:
        """Hear that the kernel is compiled."""

    def exported(self, layout: str, igate: Tensor, fgate: Tensor) -> None:
        """Hear that the kernel is about to be exported for gates of this shape."""

    def autocast(self, device: str) -> None:
        """Hear that calls are made under autocast."""

    def vmapped(
        self,
        contract: Contract,
        inputs: Sequence[Tensor],
        in_dims: tuple[int | None, int | None],
        G: Tensor,
    ) -> None:
        """Hear that the kernel is about to be called under vmap."""

    def vmap_returned(self, results: Sequence[Tensor]) -> None:
        """Hear D~, di and df of all samples."""

    # CUDA

    def no_synchronisation(self) -> None:
        """Hear that torch raises from here on where it waits for the device."""

    def warm_up(self) -> AbstractContextManager[None]:
        """Hear of the calls inside: they come before a capture, on a stream of their own."""
        return nullcontext()

    def capture(self) -> AbstractContextManager[None]:
        """Hear of the call inside: a CUDA graph captures it."""
        return nullcontext()

    def replayed(self, gates: Sequence[Tensor]) -> None:
        """Hear that the captured graph is about to be replayed on these gates."""

    def late(self, gates: Mapping[str, Tensor], buffers: Sequence[Tensor], G: Tensor) -> None:
        """Hear of buffers of NaN, to which the gates are copied later."""

    def side_stream(self, cycles: int) -> AbstractContextManager[None]:
        """Hear of the call inside: on a stream of its own, which first sleeps and then fills the buffers."""
        return nullcontext()

    def peak_from_here(self) -> None:
        """Hear that the peak of memory is measured from here on."""

    def peak_to_here(self, kept: int) -> None:
        """Hear that it is measured up to here. kept: bytes of the results."""

    def last_row(self, G: Tensor) -> None:
        """Hear of a cotangent of 1 in the last row and 0 elsewhere."""

    # Fused kernels

    def fused_leaves(
        self, tensors: Mapping[str, Tensor], leaves: Mapping[str, Tensor], names: Mapping[str, str]
    ) -> None:
        """Hear that leaves are made of inputs, by role. names: what each role is called."""

    def call_fused(
        self,
        callee: str,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        more: Mapping[str, object],
    ) -> None:
        """Hear of a call that is about to be made on tensors (B, NH, S, n), by role. more: keywords."""

    def returned_fused(self, output: Tensor, rest: Sequence[object]) -> None:
        """Hear what the call has returned: its output, and what stands beside it."""

    def pull_fused(
        self,
        output: Tensor,
        leaves: Mapping[str, Tensor],
        W: Tensor,
        names: Mapping[str, str],
        layout: str,
        *,
        retain: bool,
    ) -> None:
        """Hear that W, (B, NH, S, V), is about to be pulled back. retain: through a graph that is kept."""

    def pulled_fused(self, gradients: Sequence[Tensor]) -> None:
        """Hear the gradients of these leaves."""


SILENT = Recorder()

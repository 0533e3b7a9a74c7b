"""Events of the calls that a law makes of a kernel. A `Recorder` records none of them.

The code that calls kernels reports each call to a recorder, before and after the call. The recorder in
explain/repro/recorder.py writes a script of these events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from dmat.testing.contract import Contract
from dmat.testing.oracle.arithmetic import Array


class Recorder:
    """A recorder that ignores every event. Each method is one event."""

    def read(self, tensor: Tensor, values: Array) -> None:
        """Record that a law has read the values of a tensor."""

    def inputs(self, **inputs: Tensor) -> None:
        """Record the current values of inputs, by name: the next calls take them."""

    def uninitialised(self, poison: float) -> AbstractContextManager[None]:
        """Record the calls inside: torch.empty fills memory with the poison value `poison` there."""
        return nullcontext()

    # Kernels of D~

    def leaves(self, inputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        """Record that inputs become autograd leaves: the two gates, or the gates and G."""

    def call(self, callee: str, layout: str, igate: Tensor, fgate: Tensor) -> None:
        """Record a call that is about to be made."""

    def returned(self, output: object) -> None:
        """Record the result of the call."""

    def detached(self, output: Tensor, copy: Tensor) -> None:
        """Record that `copy` is the output without its graph."""

    def pull(self, output: Tensor, leaves: Sequence[Tensor], G: Tensor, *, retain: bool) -> None:
        """Record that G is about to be pulled back. retain: the graph is kept."""

    def pulled(self, gradients: Sequence[Tensor]) -> None:
        """Record the gradients of all leaves; zeros for a leaf that requires no gradient."""

    def in_a_child(self, callee: str, contract: Contract, inputs: Sequence[Tensor]) -> None:
        """Record a call on tensors next to guard pages, in a child process that the call may kill."""

    # Derivatives

    def forward_mode(
        self, gates: Sequence[Tensor], direction: Sequence[Tensor], duals: Sequence[Tensor]
    ) -> AbstractContextManager[None]:
        """Record the call inside, on the dual tensors of these gates and this direction."""
        return nullcontext()

    def tangent(self, tangent: Tensor) -> None:
        """Record the tangent of the output."""

    def pulled_twice(
        self,
        direction: Sequence[Tensor],
        took_part: Sequence[int],
        second: Sequence[Tensor],
    ) -> None:
        """Record a second backward, towards f and G, through the gradients in the graph.

        took_part: the indices of these gradients. second: the results, for f and for G.
        """

    # Transforms

    def compiled(self) -> None:
        """Record that the kernel is compiled."""

    def exported(self, layout: str, igate: Tensor, fgate: Tensor) -> None:
        """Record that the kernel is about to be exported for gates of this shape."""

    def autocast(self, device: str) -> None:
        """Record that calls are made under autocast."""

    def vmapped(
        self,
        contract: Contract,
        inputs: Sequence[Tensor],
        in_dims: tuple[int | None, int | None],
        G: Tensor,
    ) -> None:
        """Record that the kernel is about to be called under vmap."""

    def vmap_returned(self, results: Sequence[Tensor]) -> None:
        """Record D~, di and df of all samples."""

    # Accelerators. device: its module is torch.cuda for "cuda"

    def no_synchronisation(self, device: str) -> None:
        """Record that torch raises from here on if it waits for the device."""

    def warm_up(self, device: str) -> AbstractContextManager[None]:
        """Record the calls inside: warm-up calls before a capture, on a stream of their own."""
        return nullcontext()

    def capture(self, device: str) -> AbstractContextManager[None]:
        """Record the call inside: a graph captures it."""
        return nullcontext()

    def replayed(self, device: str, gates: Sequence[Tensor]) -> None:
        """Record that the captured graph is about to be replayed on these gates."""

    def late(self, gates: Mapping[str, Tensor], buffers: Sequence[Tensor], G: Tensor) -> None:
        """Record buffers of NaN, into which the gates are copied later."""

    def side_stream(self, device: str, cycles: int) -> AbstractContextManager[None]:
        """Record the call inside: its stream sleeps for `cycles`, and then fills the buffers."""
        return nullcontext()

    def peak_from_here(self, device: str) -> None:
        """Record that the measurement of peak memory starts here."""

    def peak_to_here(self, device: str, kept: int) -> None:
        """Record that the measurement of peak memory ends here. kept: bytes of the results."""

    def last_row(self, G: Tensor) -> None:
        """Record a cotangent of 1 in the last row and 0 elsewhere."""

    # Fused kernels

    def fused_leaves(
        self, tensors: Mapping[str, Tensor], leaves: Mapping[str, Tensor], names: Mapping[str, str]
    ) -> None:
        """Record that inputs become autograd leaves, by role. names: the printed name of each role."""

    def call_fused(
        self,
        callee: str,
        tensors: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        per_time: Collection[str],
        more: Mapping[str, object],
    ) -> None:
        """Record a call that is about to be made on tensors (B, NH, S, n), by role.

        per_time: the roles that lose their last axis. more: the keyword arguments of the call.
        """

    def returned_fused(self, output: Tensor, rest: Sequence[object]) -> None:
        """Record the results of the call: its output, and the rest of the returned tuple."""

    def joined(self, result: Tensor, pieces: Sequence[tuple[Tensor, int, int]], name: str) -> None:
        """Record that `result` is made of pieces of tensors on axis 2: each of the times from .. to ..

        name: the printed name of the whole.
        """

    def copied(self, copy: object, state: object, made_by: str) -> None:
        """Record that `copy` is a copy of a state. made_by: the call of a function of runtime.py, of {}."""

    def pull_fused(
        self,
        outputs: Mapping[str, tuple[Tensor, Tensor]],
        leaves: Mapping[str, Tensor],
        names: Mapping[str, str],
        layout: str,
        *,
        retain: bool,
    ) -> None:
        """Record that cotangents are about to be pulled back. retain: the graph is kept.

        outputs: each output with its cotangent: o, (B, NH, S, V), and of a delta rule its last state.
        """

    def pulled_fused(self, gradients: Sequence[Tensor]) -> None:
        """Record the gradients of the leaves."""


SILENT = Recorder()

"""What stands for a kernel behind the gate: a function that passes its calls to the kernel's process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dmat.testing.devices import CPU, is_there
from dmat.testing.errors import TargetError
from dmat.testing.gate.foreign import (
    KEPT,
    LARGEST_KEPT,
    Malformed,
    as_written,
    bytes_of,
    described,
    memory_of,
    packed,
    receive,
    send,
    unpacked,
    whole,
)

PROGRAM = Path(__file__).with_name("foreign.py")
SECONDS_TO_IMPORT = 300.0
DEAD = 1  # exit code of this process after the kernel's process has died
Buffers = list[bytes]


class Foreign:
    """A kernel in a process of its own, called like a function. The process starts with the first call.

    If it dies in a call, this process ends too, as it would if the kernel ran here: its journal has the case.
    """

    def __init__(self, target: str) -> None:
        """Begin without a process. target: what the process imports."""
        self.__name__ = target
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count()
        self._freed: list[int] = []
        self._latest: dict[tuple[int, int], tuple[Tensor, int]] = {}  # inputs by address and size
        self._results: deque[tuple[int, Tensor]] = deque(maxlen=KEPT)

    def start(self) -> None:
        """Start the process, and import the kernel in it. Raises TargetError if that fails."""
        self.end()
        (theirs, ours), (back, answer) = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(theirs), str(answer)],
            pass_fds=(theirs, answer),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the kernel prints is no verdict
            start_new_session=True,
        )
        os.close(theirs)
        os.close(answer)
        self._asks: BinaryIO = os.fdopen(ours, "wb")
        self._answers: BinaryIO = os.fdopen(back, "rb")
        self._latest, self._freed = {}, []
        self._results.clear()
        try:
            self._load()
        except BaseException:
            self.end()
            raise

    def _load(self) -> None:
        wrong = f"TARGET is {self.__name__!r}; importing it"
        try:
            send(self._asks, {"do": "load", "target": self.__name__})
            if not select.select([self._answers], [], [], SECONDS_TO_IMPORT)[0]:
                raise TargetError(f"{wrong} takes more than {SECONDS_TO_IMPORT:.0f} s")
            said, _ = receive(self._answers)
        except (EOFError, OSError, Malformed):
            raise TargetError(f"{wrong} ended its process") from None
        if "raised" in said:
            name, text = (str(part) for part in said["raised"])
            raise TargetError(f"{wrong} raised {': '.join([name, *text.strip().splitlines()[:1]])}")

    def end(self) -> None:
        """End the process, and what it has started, if it lives."""
        if self._process is None:
            return
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for pipe in (self._asks, self._answers):
            with suppress(OSError):
                pipe.close()

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Call the kernel. Its exceptions are raised here, under their own names."""
        inputs: list[Tensor] = []

        def put(x: Tensor) -> int:
            inputs.append(x)
            return len(inputs) - 1

        asked: dict[str, Any] = {"do": "call", "id": next(self._numbers)}
        asked["args"], asked["more"] = packed(tuple(arguments), put), packed(more, put)
        asked["grad_mode"] = torch.is_grad_enabled()
        call = _Call(self, asked["id"], inputs)
        tree, outputs = self.ask(asked, inputs, call)
        return call.in_the_graph(tree, outputs)

    def ask(
        self, asked: dict[str, Any], tensors: Sequence[Tensor], call: _Call
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Send a request with these tensors. Return the tree of the answer, and its tensors."""
        if self._process is None:
            self.start()
        storages, numbers = _storages(tensors)
        called = asked["do"] == "call"
        known = [self._numbered(memory, keep=called) for memory in storages]
        header = asked | {"freed": self._freed}
        header["storages"] = [{"number": number, "device": memory.device.type} for memory, number in known]
        header["tensors"] = [
            described(x) | {"storage": number} for x, number in zip(tensors, numbers, strict=True)
        ]
        self._freed = []
        if called:
            self._latest = {(m.data_ptr(), m.numel()): (m, number) for m, number in known}
            call.memories = storages
        said, buffers = self._exchanged(header, [bytes_of(memory) for memory in storages])
        watched = storages if called else [*storages, *call.memories]
        try:
            return self._taken(said, buffers, watched)
        except (Malformed, KeyError, IndexError, TypeError, ValueError, AttributeError):
            self._died()

    def _numbered(self, memory: Tensor, *, keep: bool) -> tuple[Tensor, int]:
        """Return the memory with a number: that of the latest call, if it was an input there, else a new one.

        The latest call's inputs are held here, so that no other memory has their address.
        """
        found = self._latest.get((memory.data_ptr(), memory.numel())) if keep else None
        return (memory, next(self._numbers) if found is None or not memory.numel() else found[1])

    def _exchanged(self, header: dict[str, Any], buffers: Buffers) -> tuple[dict[str, Any], Buffers]:
        try:
            send(self._asks, header, buffers)
            return receive(self._answers)
        except (EOFError, OSError, Malformed):
            self._died()
        except BaseException:  # the time limit: the kernel's process still runs the call
            self.end()
            raise

    def _died(self) -> NoReturn:
        self.end()
        os._exit(DEAD)

    def _taken(
        self, said: dict[str, Any], buffers: Buffers, watched: Sequence[Tensor]
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Return the result of an answer. First write down what the call changed."""
        for number, buffer in said["changed"]:
            _overwrite(watched[number], buffers[buffer])
        earlier = dict(self._results)
        for number, buffer in said["rewritten"]:
            if number in earlier:
                _overwrite(earlier[number], buffers[buffer])
        if "raised" in said:
            name, text = (str(part) for part in said["raised"])
            raise type(name if name.isidentifier() else "Exception", (_Raised,), {})(text)
        outputs: list[Tensor] = []

        def take(spec: dict[str, Any]) -> Tensor:
            if "input" in spec:
                x = as_written(watched[spec["input"]], spec)
            else:
                device = spec["device"] if is_there(spec["device"]) else CPU
                memory = memory_of(buffers[spec["buffer"]], device)
                if memory.numel() <= LARGEST_KEPT:
                    self._results.append((int(spec["result"]), memory))
                x = as_written(memory, spec)
            x.asks = bool(spec["grad"])  # type: ignore[attr-defined]
            outputs.append(x)
            return x

        return unpacked(said["result"], take, _opaque), outputs


class _Raised(Exception):
    """An exception of the kernel. Its subclass has the name of the exception's class."""


class _Call:
    """One call, as long as this process holds its results: the kernel's process keeps its graph."""

    def __init__(self, kernel: Foreign, number: int, inputs: Sequence[Tensor]) -> None:
        self.kernel, self.number, self.inputs = kernel, number, inputs
        self.memories: list[Tensor] = []
        self.process: object = None

    def __del__(self) -> None:
        self.kernel._freed.append(self.number)

    def in_the_graph(self, tree: Any, outputs: Sequence[Tensor]) -> Any:
        """Return the result with its tensors in autograd's graph, where they ask for a gradient."""
        self.process = self.kernel._process
        asking = [x for x in outputs if getattr(x, "asks", False) and x.is_floating_point()]
        leaves = [x for x in self.inputs if x.requires_grad]
        if not asking or not leaves or not torch.is_grad_enabled():
            return tree
        found = _Pull.apply(self, asking, *leaves)  # type: ignore[no-untyped-call]
        attached = dict(zip(map(id, asking), found, strict=True))
        return _replaced(tree, attached)

    def pulled(self, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradient of each leaf."""
        given = [(number, x) for number, x in enumerate(cotangents) if x is not None]
        if not given:
            return [None] * sum(x.requires_grad for x in self.inputs)
        if self.process is not self.kernel._process:
            raise RuntimeError("the process with the graph of this call has ended")
        asked = {"do": "pull", "id": self.number, "outputs": [number for number, _ in given]}
        result, _ = self.kernel.ask(asked, [x for _, x in given], self)
        return list(cast(tuple[Tensor | None, ...], result))


class _Pull(torch.autograd.Function):
    """The results of a call, whose backward sends the cotangents to the kernel's process."""

    @staticmethod
    def forward(ctx: Any, call: _Call, outputs: Sequence[Tensor], *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, *ctx.call.pulled(cotangents))


def _storages(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the different memories of these tensors, and which of them each tensor lies in."""
    memories: dict[int, Tensor] = {}
    own = []
    for x in tensors:
        address = x.untyped_storage().data_ptr() or -id(x)
        memories.setdefault(address, whole(x.detach()))
        own.append(list(memories).index(address))
    return list(memories.values()), own


def _overwrite(memory: Tensor, raw: bytes) -> None:
    if len(raw) != memory.numel():
        raise Malformed("a memory has another size")
    memory.copy_(memory_of(raw, memory.device.type))


def _opaque(name: str) -> object:
    """Return an object whose class has this name."""
    found: object = type(name if name.isidentifier() else "object", (), {})()
    return found


def _replaced(tree: Any, attached: dict[int, Tensor]) -> Any:
    """Return the tree with some tensors replaced. attached: by the id of the tensor."""
    if isinstance(tree, tuple | list):
        return type(tree)(_replaced(x, attached) for x in tree)
    if isinstance(tree, dict):
        return {name: _replaced(x, attached) for name, x in tree.items()}
    return attached.get(id(tree), tree)

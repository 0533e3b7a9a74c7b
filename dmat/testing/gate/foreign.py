"""The process of a kernel behind the gate, run by path, and the messages that it exchanges with dmat.

This file imports the standard library and torch alone. The kernel is imported here, beside a stub of dmat:
its decorators return the function, and no other module of dmat can be imported. A message is the length of a
header, the header as JSON, and raw bytes. No pickle is read from the kernel's process.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import struct
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

LONGEST_HEADER = 2**26  # bytes
MOST_BYTES = 2**34  # of the buffers of one message
KEPT, LARGEST_KEPT = 16, 2**22  # the last results, and their bytes, that are watched for a later change
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LENGTH = struct.Struct("<Q")


class Malformed(Exception):
    """The message is not of the agreed form."""


# Messages


def send(pipe: BinaryIO, header: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
    """Write a message. buffers: the raw bytes that follow the header."""
    text = json.dumps(header | {"sizes": [len(raw) for raw in buffers]}).encode()
    pipe.write(_LENGTH.pack(len(text)) + text)
    for raw in buffers:
        pipe.write(raw)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """Read a message. Raises EOFError if the other side is gone, Malformed for what is no message."""
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if length > LONGEST_HEADER:
        raise Malformed("the header is too long")
    try:
        header = json.loads(_exactly(pipe, length))
        sizes = [int(size) for size in header["sizes"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"the header is no JSON of a message: {error}") from None
    if min(sizes, default=0) < 0 or sum(sizes) > MOST_BYTES:
        raise Malformed("the buffers are too large")
    return header, [_exactly(pipe, size) for size in sizes]


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    raw = pipe.read(size)
    if len(raw) < size:
        raise EOFError
    return raw


def packed(value: Any, put: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Return a tree of tensors, numbers and texts as JSON. put: returns what stands for a tensor."""
    if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta":
        return {"tensor": put(value)}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [packed(x, put) for x in value]}
    if isinstance(value, dict):
        return {"dict": [[packed(name, put), packed(x, put)] for name, x in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    return {"other": type(value).__name__}


def unpacked(node: dict[str, Any], take: Callable[[Any], Tensor], other: Callable[[str], Any]) -> Any:
    """Return the tree again: the inverse of `packed`. other: makes what stands for any other object."""
    ((kind, found),) = node.items()
    if kind == "tensor":
        return take(found)
    if kind in ("tuple", "list"):
        members = [unpacked(x, take, other) for x in found]
        return tuple(members) if kind == "tuple" else members
    if kind == "dict":
        return {unpacked(name, take, other): unpacked(x, take, other) for name, x in found}
    return found if kind == "value" else other(str(found))


# Tensors as bytes


def whole(x: Tensor) -> Tensor:
    """Return all bytes of a tensor's storage, as a tensor that shares them."""
    storage: Any = x.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=x.device).set_(storage, 0, (storage.nbytes(),), (1,))


def bytes_of(memory: Tensor) -> bytes:
    """Return the bytes of a tensor of bytes."""
    return memory.cpu().numpy().tobytes()


def memory_of(raw: bytes, device: str) -> Tensor:
    """Return these bytes in memory of their own."""
    if not raw:
        return torch.empty(0, dtype=torch.uint8, device=device)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).clone().to(device)


def as_written(memory: Tensor, spec: dict[str, Any]) -> Tensor:
    """Return the tensor of a spec, a view of this memory. Raises Malformed if it lies outside."""
    try:
        dtype = getattr(torch, str(spec["dtype"]))
        size, stride = ([int(n) for n in spec[name]] for name in ("size", "stride"))
        offset = int(spec["offset"])
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        itemsize = dtype.itemsize
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"a tensor is described wrongly: {error}") from None
    if min([offset, *size, *stride]) < 0 or (0 not in size and (last + 1) * itemsize > memory.numel()):
        raise Malformed("a tensor lies outside its memory")
    storage: Any = memory.untyped_storage()
    return torch.empty(0, dtype=dtype, device=memory.device).set_(storage, offset, size, stride)


def described(x: Tensor) -> dict[str, Any]:
    """Return how a tensor lies in its storage."""
    dtype = str(x.dtype).removeprefix("torch.")
    its: dict[str, Any] = {"dtype": dtype, "size": list(x.shape), "stride": list(x.stride())}
    return its | {"offset": x.storage_offset(), "grad": x.requires_grad}


# The kernel's process


class Server:
    """Serves the calls of one kernel. It keeps the graph of a call until the call is freed."""

    def __init__(self) -> None:
        """Begin without a kernel."""
        self.function: Callable[..., Any] = lambda: None
        self.calls: dict[int, dict[str, Any]] = {}
        self.memories: dict[int, Tensor] = {}  # those of the latest call, by their number
        self.kept: deque[list[Any]] = deque(maxlen=KEPT)
        self.results = 0

    def answer(self, asked: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """Do what is asked. An exception of the kernel is an answer, too."""
        if asked["do"] == "load":
            self.function = loaded(asked["target"])
            return {}, []
        for number in asked["freed"]:
            self.calls.pop(number, None)
        out: list[bytes] = []
        watched = self._memories(asked, buffers)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self._call(asked, watched) if asked["do"] == "call" else self._pull(asked, watched)
            said: dict[str, Any] = {"result": packed(result, lambda x: self._put(x, watched, out))}
        except BaseException as error:  # SystemExit too: a kernel may raise anything
            said, out = {"raised": [type(error).__name__, str(error)]}, []
        if asked["do"] == "pull":
            watched = [*watched, *self.calls[asked["id"]]["watched"]]
        return said | {"changed": _changed(watched, out), "rewritten": self._rewritten(out)}, out

    def _memories(self, asked: dict[str, Any], buffers: list[bytes]) -> list[list[Any]]:
        """Return the memories of the inputs, each with its bytes. The same memory keeps its address."""
        watched: list[list[Any]] = []
        for its, raw in zip(asked["storages"], buffers, strict=True):
            memory = self.memories.get(its["number"])
            if memory is None:
                memory = memory_of(raw, its["device"])
            elif raw:
                memory.copy_(memory_of(raw, its["device"]))
            watched.append([memory, raw])
        if asked["do"] == "call":
            numbers = [its["number"] for its in asked["storages"]]
            self.memories = dict(zip(numbers, [memory for memory, _ in watched], strict=True))
        return watched

    def _call(self, asked: dict[str, Any], watched: list[list[Any]]) -> Any:
        tensors = [as_written(watched[spec["storage"]][0], spec) for spec in asked["tensors"]]
        for x, spec in zip(tensors, asked["tensors"], strict=True):
            x.requires_grad_(spec["grad"])
        arguments, more = (
            unpacked(asked[name], tensors.__getitem__, _not_handed) for name in ("args", "more")
        )
        with torch.set_grad_enabled(asked["grad_mode"]):
            result = self.function(*arguments, **more)
        outputs: list[Tensor] = []
        packed(result, lambda x: outputs.append(x) if x.requires_grad else None)
        leaves = [x for x in tensors if x.requires_grad]
        self.calls[asked["id"]] = {"outputs": outputs, "leaves": leaves, "watched": watched}
        return result

    def _pull(self, asked: dict[str, Any], watched: list[list[Any]]) -> Any:
        call = self.calls[asked["id"]]
        cotangents = [as_written(watched[spec["storage"]][0], spec) for spec in asked["tensors"]]
        outputs = [call["outputs"][number] for number in asked["outputs"]]
        return torch.autograd.grad(outputs, call["leaves"], cotangents, retain_graph=True, allow_unused=True)

    def _put(self, x: Tensor, watched: list[list[Any]], out: list[bytes]) -> dict[str, Any]:
        """Describe a result, and add its bytes to `out`, or name the input whose memory it shares."""
        own = x.untyped_storage().data_ptr()
        for number, (memory, _) in enumerate(watched):
            if own == memory.untyped_storage().data_ptr() and memory.numel():
                return described(x) | {"input": number}
        raw, spec = _written(x)
        spec |= {"buffer": len(out), "grad": x.requires_grad, "device": x.device.type, "result": self.results}
        if len(raw) <= LARGEST_KEPT:
            self.kept.append([self.results, x.detach(), raw])
        self.results += 1
        out.append(raw)
        return spec

    def _rewritten(self, out: list[bytes]) -> list[list[int]]:
        """Return the earlier results that have changed since, each with the number of its buffer."""
        found = []
        for kept in self.kept:
            number, x, raw = kept
            now, _ = _written(x)
            if now != raw:
                kept[2] = now
                found.append([number, len(out)])
                out.append(now)
        return found


def _written(x: Tensor) -> tuple[bytes, dict[str, Any]]:
    """Return the values of a tensor as bytes, and how they lie there."""
    copy = x.detach().clone()
    return bytes_of(whole(copy)), described(copy)


def _changed(watched: list[list[Any]], out: list[bytes]) -> list[list[int]]:
    """Return the inputs whose memory the call changed, each with the number of its buffer."""
    found = []
    for number, pair in enumerate(watched):
        now = bytes_of(pair[0])
        if now != pair[1]:
            pair[1] = now
            found.append([number, len(out)])
            out.append(now)
    return found


def _not_handed(name: str) -> Any:
    raise TypeError(f"the gate hands over no {name}: a state is of tensors, numbers, lists, tuples and dicts")


# Importing the kernel


def loaded(target: str) -> Callable[..., Any]:
    """Import package.module:function or path/to/file.py:function."""
    where, _, attributes = target.rpartition(":")
    sys.path.append(str(Path.cwd()))
    if where.endswith(".py"):
        file = Path(where).resolve()
        taken = file.stem in sys.modules or importlib.util.find_spec(file.stem) is not None
        name = f"{file.stem}_behind_the_gate" if taken else file.stem
        sys.path.append(str(file.parent))
        spec: Any = importlib.util.spec_from_file_location(name, file)
        found: Any = importlib.util.module_from_spec(spec)
        sys.modules[name] = found
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(where)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    if not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, not callable")
    return found  # type: ignore[no-any-return]


class NoDmat(importlib.abc.MetaPathFinder):
    """No module of dmat can be imported here but the stub."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise ImportError for a module of dmat."""
        if name.partition(".")[0] == "dmat":
            raise ImportError(f"{name} is not there behind the gate: only dmat.testing's decorators are")


def stub() -> None:
    """Put a dmat into sys.modules whose decorators return the function, and which has nothing else."""
    top, testing = types.ModuleType("dmat"), types.ModuleType("dmat.testing")
    top.__path__, testing.__path__ = [], []
    contents: dict[str, Any] = {
        "fused": lambda fn, reads="linear", **promises: lifted(fn) if reads == "log" else fn,
        "implementation": lambda **promises: lambda fn: fn,
        "from_segment_sum": lambda fn, **promises: lifted(fn),
        "laws": lambda *arguments, **options: None,
    }
    vars(testing).update(contents)
    vars(top).update(testing=testing)
    sys.modules.update({"dmat": top, "dmat.testing": testing})
    sys.meta_path.insert(0, NoDmat())


def lifted(segment_sum: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Make D~ of a function of log decays, as dmat.testing.from_segment_sum does."""

    def dtilde(igate_preact: Tensor, fgate_preact: Tensor) -> Tensor:
        wide = torch.promote_types(igate_preact.dtype, torch.float32)
        sums = segment_sum(torch.nn.functional.logsigmoid(fgate_preact.to(wide)).squeeze(-1))
        S = igate_preact.shape[2]
        causal = torch.ones(S, S, dtype=torch.bool, device=sums.device).tril()
        igate = igate_preact.to(wide).transpose(-2, -1)
        return torch.where(causal, sums + igate, sums).to(igate_preact.dtype)

    return dtilde


def serve(asked_through: int, answered_through: int) -> None:
    """Serve requests until the other side is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).parent]
    torch.set_num_threads(1)
    stub()
    requests, answers = os.fdopen(asked_through, "rb"), os.fdopen(answered_through, "wb")
    server = Server()
    while True:
        try:
            asked, buffers = receive(requests)
        except EOFError:
            os._exit(0)
        try:
            said, out = server.answer(asked, buffers)
        except BaseException as error:
            said, out = {"raised": [type(error).__name__, str(error)], "changed": [], "rewritten": []}, []
        send(answers, said, out)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))

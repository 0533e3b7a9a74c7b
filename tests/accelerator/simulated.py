"""A simulated accelerator: importing this module gives torch a device "sim". For tests only.

torch's Python backend for PrivateUse1 does it: a tensor on "sim" has a storage without an address, and each
operation below autograd runs on the CPU in memory that the storage owns. So sim's tensors are not on the CPU:
numpy() and pointers do not reach them, mixing them with tensors of the CPU raises, each copy to the host is
counted by the line of dmat that asked for it, memory is limited, and an error may stick as CUDA's do.

The Python backend has no streams, no graphs and no generator of its own.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, Never

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sim"
CAPACITY = 64 * 2**20  # bytes
LACKS_FLOAT64 = os.environ.get("SIM_LACKS_FLOAT64") == "1"  # as mps does
ADDRESSES = 1 << 62  # added to each address: reading through it ends the process
MIXES = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_")  # CUDA takes CPU indices too
ROOT = Path(__file__).resolve().parents[2]

_storages: Any = torch.UntypedStorage
copies: Counter[str] = Counter()  # copies to the host by "file:line" of the caller
_memory = {"live": 0, "peak": 0}
_state: dict[str, Any] = {"broken": False, "sync": 0}
_set = torch.ops.aten.set_.source_Storage_storage_offset
_CPU, _META = torch._C.DispatchKey.CPU, torch._C.DispatchKey.Meta  # their kernels, whatever modes are on


def illegal_access() -> Never:
    """Break the device: this call and all later ones raise."""
    _state["broken"] = True
    _require_whole()
    raise AssertionError


def _require_whole() -> None:
    if _state["broken"]:
        raise RuntimeError("sim error: an illegal memory access was encountered")


# Memory


def _require_room(size: int) -> None:
    if _memory["live"] + size > CAPACITY:
        raise torch.OutOfMemoryError(
            f"sim out of memory. Tried to allocate {size / 2**20:.2f} MiB; {_memory['live'] / 2**20:.2f} MiB "
            f"of {CAPACITY / 2**20:.0f} MiB are in use"
        )


def _freed(size: int) -> None:
    _memory["live"] -= size


def _bare(dtype: torch.dtype, storage: Any, like: Tensor) -> Tensor:
    """Return a tensor on sim with the shape, strides and offset of `like`. storage: None for a new one."""
    tensor = torch._C._acc.create_empty_tensor((0,), dtype)
    return _placed(tensor, tensor.untyped_storage() if storage is None else storage, like)


def _placed(tensor: Tensor, storage: Any, like: Tensor) -> Tensor:
    placed: Tensor = _set._op_dk(
        _META, tensor, storage, like.storage_offset(), list(like.shape), list(like.stride())
    )
    return placed


def _uploaded(host: Tensor) -> Tensor:
    """Return a tensor on sim whose memory is that of a tensor on the CPU."""
    if LACKS_FLOAT64 and host.dtype == torch.float64:
        raise TypeError("Cannot convert a sim Tensor to float64 dtype: sim has no float64")
    owned: Any = host.untyped_storage()
    _require_room(owned.nbytes())
    tensor = _bare(host.dtype, None, host)
    storage: Any = tensor.untyped_storage()
    storage.host = owned
    _memory["live"] += owned.nbytes()
    _memory["peak"] = max(_memory["peak"], _memory["live"])
    weakref.finalize(storage, _freed, owned.nbytes())
    return tensor


def _host(tensor: Tensor) -> Tensor:
    """Return the memory of a tensor on sim, as a tensor on the CPU."""
    storage: Any = tensor.untyped_storage()
    if not hasattr(storage, "host"):
        storage.host = _storages(storage.nbytes())
    empty = torch.ops.aten.empty.memory_format._op_dk(_CPU, [0], dtype=tensor.dtype)
    size, stride = list(tensor.shape), list(tensor.stride())
    placed: Tensor = _set._op_dk(_CPU, empty, storage.host, tensor.storage_offset(), size, stride)
    return placed


# Operations


def _fallback(op: Any, *arguments: Any, **keywords: Any) -> Any:
    """Run an operation on the CPU, in the memory of its tensors on sim."""
    _require_whole()
    given: dict[int, tuple[Tensor, Tensor]] = {}  # id of the memory: it, and the tensor on sim
    strangers = []

    def down(x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.device.type != NAME:
                strangers.append(x)
                return x
            memory = _host(x)
            given[id(memory)] = memory, x
            return memory
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    kinds = [str(argument.type) for argument in op._schema.arguments]
    lowered = [_as_tensor(x, kind) for x, kind in zip(tree_map(down, arguments), kinds, strict=False)]
    named = tree_map(down, keywords)
    if given and any(x.dim() for x in strangers) and not op.name().startswith(MIXES):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, sim:0 and cpu! "
            f"(when checking the arguments of {op.name()})"
        )
    if op.name() == "aten::_local_scalar_dense":
        _count()
    if op.name().startswith("aten::empty"):
        _require_room((named.get("dtype") or torch.float32).itemsize * prod(lowered[0]))
    result = op._op_dk(_CPU, *lowered, **named)
    for memory, tensor in given.values():
        if memory.shape != tensor.shape or memory.stride() != tensor.stride():  # resized in place
            _placed(tensor, tensor.untyped_storage(), memory)
    owners = {memory.untyped_storage()._cdata: tensor for memory, tensor in given.values()}

    def up(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in given:
            return given[id(x)][1]
        owner = owners.get(x.untyped_storage()._cdata)
        return _uploaded(x) if owner is None else _bare(x.dtype, owner.untyped_storage(), x)

    return tree_map(up, result)


def _as_tensor(value: Any, kind: str) -> Any:
    """Return a number as the tensor that the operation takes: torch hands its wrapped numbers over bare."""
    if kind != "Tensor" or not isinstance(value, int | float):
        return value
    return torch.scalar_tensor(value, dtype=torch.int64 if isinstance(value, int) else None)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy between sim and the CPU, or on sim."""
    _require_whole()
    if target.device.type != NAME:
        _count()
    if LACKS_FLOAT64 and torch.float64 in (source.dtype, target.dtype):
        raise TypeError("Cannot convert a sim Tensor to float64 dtype: sim has no float64")
    here, there = (_host(x) if x.device.type == NAME else x for x in (source, target))
    there.copy_(here)
    return target


def _zeros(size: Any, **keywords: Any) -> Tensor:
    """Return zeros in memory: the Python backend has no tensors of zero without any."""
    zeros = torch.ops.aten.empty.memory_format._op_dk(_CPU, list(size), dtype=keywords.get("dtype"))
    torch.ops.aten.fill_.Scalar._op_dk(_CPU, zeros, 0)
    return _uploaded(zeros)


def _set_storage(tensor: Tensor, storage: Any, offset: int, size: Any, stride: Any = ()) -> Tensor:
    """Let a tensor on sim be a view of this storage."""
    strides = list(stride) or list(torch.empty(size, device="meta").stride())
    placed: Tensor = _set._op_dk(_META, tensor, storage, offset, list(size), strides)
    return placed


def _set_whole_storage(tensor: Tensor, storage: Any) -> Tensor:
    """Let a tensor on sim be all of this storage."""
    return _set_storage(tensor, storage, 0, (storage.nbytes() // tensor.element_size(),))


def _count() -> None:
    """Count a copy to the host, by the nearest line of this repository. Raises if waiting is forbidden."""
    if _state["sync"] == 2:
        raise RuntimeError("called a synchronizing sim operation")
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and path != Path(__file__):
            copies[f"{path.relative_to(ROOT)}:{frame.f_lineno}"] += 1
            return
        frame = frame.f_back  # type: ignore[assignment]
    copies["?"] += 1  # a thread of autograd's


# The module torch.sim


class Module:
    """torch.sim: what dmat asks of a device's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing: sim has no generator."""

    def get_device_name(self, device: object = None) -> str:
        return "a simulated accelerator"

    def synchronize(self, device: object = None) -> None:
        _require_whole()

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return CAPACITY - _memory["live"], CAPACITY

    def memory_allocated(self, device: object = None) -> int:
        return _memory["live"]

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: object = None) -> int:
        return _memory["peak"]

    def reset_peak_memory_stats(self, device: object = None) -> None:
        _memory["peak"] = _memory["live"]

    def empty_cache(self) -> None:
        """Do nothing: sim keeps no freed memory."""

    def set_sync_debug_mode(self, mode: int | str) -> None:
        _state["sync"] = ("default", "warn", "error").index(mode) if isinstance(mode, str) else mode

    def get_sync_debug_mode(self) -> int:
        return int(_state["sync"])


def _address_of(storage: Any) -> int:
    return int(storage.host.data_ptr()) + ADDRESSES if hasattr(storage, "host") else 0


def _patch_storages() -> None:
    """Give sim's storages an address, which only comparisons may use, and a clone."""
    kinds: Any = torch.UntypedStorage, torch.Tensor
    addresses = [kind.data_ptr for kind in kinds]
    clone = kinds[0].clone

    def of_storage(self: Any) -> int:
        return _address_of(self) if self.device.type == NAME else int(addresses[0](self))

    def of_tensor(self: Any) -> int:
        if self.device.type != NAME:
            return int(addresses[1](self))
        start: int = self.storage_offset() * self.element_size()
        return _address_of(self.untyped_storage()) + start

    def cloned(self: Any) -> Any:
        if self.device.type != NAME:
            return clone(self)
        host = torch.empty(0, dtype=torch.uint8).set_(self.host.clone())
        return _uploaded(host).untyped_storage()

    kinds[0].data_ptr, kinds[1].data_ptr, kinds[0].clone = of_storage, of_tensor, cloned


_setup: Any = _setup_privateuseone_for_python_backend
_setup(NAME, backend_module=Module())
_library: Any = torch.library.Library
_rest = _library("_", "IMPL")
_rest.fallback(_fallback, "PrivateUse1")
_aten = _library("aten", "IMPL")
_aten.impl("_copy_from", _copy_from, "PrivateUse1")
_aten.impl("set_.source_Storage_storage_offset", _set_storage, "PrivateUse1")
_aten.impl("set_.source_Storage", _set_whole_storage, "PrivateUse1")
_aten.impl("_efficientzerotensor", _zeros, "PrivateUse1")
_patch_storages()


def autoload() -> None:
    """Do nothing more: torch has imported this module, as it imports every entry point of torch.backends."""

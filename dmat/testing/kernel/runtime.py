"""Functions that a repro script may hold, copied as they stand: torch and nothing else. dmat calls them too.

Which names they need imported stands in IMPORTS. `dies` stands in dmat.testing.processes, without torch.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import importlib.util
import inspect
import json
import math
import mmap
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dmat.testing.processes import dies

IMPORTS = {
    "load": ("import importlib.util", "import sys", "from pathlib import Path"),
    "from_file": (),
    "stored": ("import json", "from pathlib import Path"),
    "guarded": (),
    "placed": (),
    "copied": ("from torch.utils._pytree import tree_map",),
    "laid_out": ("from torch.utils._pytree import tree_map",),
    "uninitialised": ("from contextlib import ExitStack, contextmanager", "from unittest.mock import patch"),
    "refusals": ("import sys", "from contextlib import contextmanager"),
    "at_the_edge": ("import ctypes", "import mmap"),
    "dies": ("import os",),
    "described": (),
    "side_by_side": (),
    "out_of_bound": ("import math", "import sys", "from fractions import Fraction"),
    "unlike": (),
    "of_another_class": ("import math",),
}


def load(target: str, found_in: str) -> Any:
    """Return what package.module:function or path/to/file.py:function names, from here or from found_in."""
    where, _, attributes = target.rpartition(":")
    sys.path += [str(Path.cwd()), found_in]
    if where.endswith(".py"):
        file = next((f for f in (Path(where), Path(found_in, where)) if f.is_file()), Path(where)).resolve()
        found = from_file(file, f"{file.stem}_here")
    else:
        found = importlib.import_module(where)
    for name in attributes.split("."):
        found = getattr(found, name)
    return found


def from_file(file: Path, name: str) -> Any:
    """Import a file under this name; its folder comes last in the path, so that it shadows nothing."""
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except BaseException:
        del sys.modules[name]
        raise
    return module


def read(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file: the length of a header, the header, which is JSON, and the bytes it lists."""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    dtypes = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    tensors = {}
    for name, its in json.loads(raw[8:begin]).items():
        start, end = (begin + n for n in its["data_offsets"])
        flat = torch.frombuffer(bytearray(raw[start:end]), dtype=dtypes[its["dtype"]])
        tensors[name] = flat.clone().view(its["shape"])
    return tensors


def guarded(values: Tensor, guard: int, poison: float) -> Tensor:
    """Return these values between so many elements of the filler on either side."""
    memory = torch.full((values.numel() + 2 * guard,), poison, dtype=values.dtype, device=values.device)
    return memory[guard : guard + values.numel()].view(values.shape).copy_(values)


def placed(values: Tensor, size: int, stride: tuple[int, ...], offset: int, poison: float) -> Tensor:
    """Return these values as a view of so many elements, all others of them the filler."""
    memory = torch.full((size,), poison, dtype=values.dtype, device=values.device)
    return memory.as_strided(values.shape, stride, offset).copy_(values)


def copied(state: Any) -> Any:
    """Return a copy of a state: each tensor in memory of its own, with the same strides."""

    def copy(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.requires_grad:
            return x.clone() if isinstance(x, torch.Tensor) else x
        storage: Any = x.untyped_storage()
        memory = torch.empty(0, dtype=x.dtype, device=x.device).set_(storage.clone())
        return memory.as_strided(x.shape, x.stride(), x.storage_offset())

    return tree_map(copy, state)


def laid_out(state: Any, layout: str, poison: float = float("nan")) -> Any:
    """Return a state whose floating-point tensors, of two axes or more, lie otherwise in memory.

    layout: "transposed", the last two axes; "strided", every second element of each; "offset", in the middle
    of a larger tensor. All other elements of that memory are `poison`.
    """

    def place(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim < 2:
            return x
        x = x.detach()
        if layout == "transposed":
            return x.mT.contiguous().mT
        *front, rows, columns = x.shape
        strided = layout == "strided"
        size = (*front, 2 * rows, 2 * columns) if strided else (*front, rows + 2, columns + 3)
        memory = torch.full(size, poison, dtype=x.dtype, device=x.device)
        return (memory[..., ::2, 1::2] if strided else memory[..., 1:-1, 1:-2]).copy_(x)

    return tree_map(place, state)


@contextmanager
def uninitialised(poison: float) -> Iterator[None]:
    """Make torch.empty and its kin return floating point memory filled with `poison`.

    torch's deterministic mode would do so too, but makes CUDA's cumulative sums raise.
    """
    kin = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")]
    kin += [(torch.Tensor, "new_empty"), (torch.Tensor, "new_empty_strided")]  # type: ignore[list-item]

    def filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*arguments: Any, **keywords: Any) -> Tensor:
            memory = allocate(*arguments, **keywords)
            if memory.is_floating_point() and memory.device.type != "meta":
                with torch.no_grad():
                    memory.fill_(poison)
            return memory

        return allocated

    with ExitStack() as stack:
        for owner, name in kin:
            stack.enter_context(patch.object(owner, name, filled(getattr(owner, name))))
        yield


@contextmanager
def refusals() -> Iterator[None]:
    """Take an error for a refusal, which is right here: only a wrong answer is not."""
    try:
        yield
    except Exception as error:
        print(f"FIXED: it refuses, {type(error).__name__}: {error}")
        sys.exit(0)


def at_the_edge(dense: Tensor, side: str) -> Tensor:
    """Return an equal, contiguous tensor whose `side`, "end" or "start", touches a protected page."""
    size, page = dense.numel() * dense.element_size(), mmap.PAGESIZE
    if size == 0:
        return dense.contiguous()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start, edge = (pages * page - size, pages * page) if side == "end" else (page, 0)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + edge
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), 0) != 0:  # 0: PROT_NONE
        raise OSError(ctypes.get_errno(), "mprotect failed")
    flat = torch.frombuffer(memory, dtype=dense.dtype, count=dense.numel(), offset=start)
    return flat.view(dense.shape).copy_(dense)


def described(result: object) -> str:
    """Return what kind of tensor this is."""
    if not isinstance(result, torch.Tensor):
        return f"a {type(result).__name__}"
    return f"a {result.dtype} tensor {tuple(result.shape)} on {result.device}"


def side_by_side(computed: Tensor, exact: Any) -> None:
    """Print two matrices beside each other."""
    rows = exact.tolist() if isinstance(exact, torch.Tensor) else exact
    width = 13 * len(rows[0])
    print(f"\n{'computed':<{width}} |  exact")
    for left, right in zip(computed.tolist(), rows, strict=True):
        print(*("".join(f"{x:>12.6g} " for x in row) for row in (left, right)), sep=" | ")
    print()


def out_of_bound(computed: float, exact: str, allowed: float, may_overflow: bool = False) -> bool:
    """Print both, and return whether they are further apart than allowed."""
    print(f"computed  {computed!r}\nexact     {exact}")
    if not math.isfinite(computed):
        return not may_overflow
    if math.isinf(allowed):
        return False
    error = abs(Fraction(computed) - Fraction(exact))
    print(f"error     {float(min(error, Fraction(sys.float_info.max))):.3g}\nallowed   {allowed:.3g}")
    return error > Fraction(allowed)


def unlike(computed: Any, exact: Any) -> bool:
    """Print both, and return whether they differ; NaN is like NaN."""
    print(f"computed  {computed}\nexact     {exact}")
    return not (computed == exact or (computed != computed and exact != exact))


def of_another_class(computed: float, exact: str, may_overflow: bool = False) -> bool:
    """Print both, and return whether it is not what it must be: NaN, or an infinity."""
    print(f"computed  {computed!r}\nexact     {exact}")
    found = "NaN" if math.isnan(computed) else "-inf" if computed < 0 else "+inf"
    if math.isinf(computed) or math.isnan(computed):
        return found not in exact.split(" or ") and not may_overflow
    return True


def sources(names: Collection[str], more: Sequence[str] = ()) -> list[str]:
    """Return the code of these functions: imports, and more of them, and definitions."""
    wanted = [name for name in IMPORTS if name in names]
    imports = {line for name in wanted for line in IMPORTS[name]} | {"import sys", *more}
    functions = {**globals(), "stored": read, "dies": dies}
    code = [untyped(inspect.getsource(functions[name])).splitlines() for name in wanted]
    ordered = sorted(imports, key=lambda line: (line.startswith("from"), line))
    return [*ordered, "", "import torch", *(line for lines in code for line in ("", "", *lines))]


def untyped(source: str) -> str:
    """Return the code of a function without its types: they would need more imports."""
    lines = [line.split("  # type: ignore")[0] for line in source.rstrip().splitlines()]
    cuts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            cuts.append((node.annotation, ": "))
        if isinstance(node, ast.FunctionDef) and node.returns is not None:
            cuts.append((node.returns, " -> "))
    for type_, before in sorted(cuts, key=lambda cut: (-cut[0].lineno, -cut[0].col_offset)):
        line = lines[type_.lineno - 1]
        assert type_.end_col_offset is not None
        start = type_.col_offset - len(before)
        lines[type_.lineno - 1] = line[:start] + line[type_.end_col_offset :]
    return "\n".join(line.replace(" = ", "=") if line.startswith("def ") else line for line in lines)

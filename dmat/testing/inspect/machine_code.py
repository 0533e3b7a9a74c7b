"""Read the machine code of a compiled kernel: opcodes, registers, spills, the width of stores.

NVIDIA's is taken apart by nvdisasm and cuobjdump, which triton's wheel carries. AMD's is text already.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dmat.testing.errors import CannotRun

TOOLS = ("nvdisasm", "cuobjdump", "ptxas")
# An instruction stands after a semicolon-free address comment (NVIDIA) or a tab (AMD).
SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
GCN = re.compile(r"^\s+([a-z]+_[a-z0-9_]+)\b", re.MULTILINE)
PRODUCTS = re.compile(r"^(?:[HDIQO]MMA|[HQ]GMMA|UTC\w*MMA|v_(?:s?w?mma?c?|mfma|wmma|smfmac)_?)")
EXPONENTIALS = re.compile(r"^(?:MUFU\.EX2|v_exp_f(?:16|32))")
ATOMICS = re.compile(
    r"^(?:(?:RED|ATOM|ATOMG|REDG|UREDGR?)\b.*\.F(?:16|32|64)|\w+_atomic_(?:pk_)?add_(?:f|bf)\d+)"
)
LOCAL = re.compile(r"^(?:LDL|STL|scratch_(?:load|store))")
STORES = re.compile(r"^(?:STG\.|global_store_|buffer_store_)")
WIDE = re.compile(r"^(?:STG\..*\b128\b|(?:global|buffer)_store_(?:dwordx4|b128))")


@dataclass(frozen=True)
class MachineCode:
    """What was found. local: loads and stores of local memory, which spilled registers take.

    opcodes: how often each instruction of interest occurs.
    """

    registers: int
    spilled: int
    local: int
    stores: int
    wide_stores: int
    exponentials: int
    atomics: int
    products: dict[str, int]


@cache
def tools() -> Path:
    """Return the folder of NVIDIA's tools in triton's wheel. Raises CannotRun if one is missing."""
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for name in TOOLS:
        if not (folder / name).exists():
            raise CannotRun(f"dmat inspect needs {name}, which this triton does not have: {folder}")
    return folder


def of_cubin(cubin: bytes) -> MachineCode:
    """Read NVIDIA's machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text, usage = _ran("nvdisasm", "-c", "-ndf", file.name), _ran("cuobjdump", "-res-usage", file.name)
    registers = [int(count) for count in re.findall(r"REG:(\d+)", usage)]
    return _found(SASS.findall(text), max(registers, default=0))


def of_amdgcn(text: str) -> MachineCode:
    """Read AMD's machine code."""
    registers, spilled = (
        max((int(count) for count in re.findall(rf"\.vgpr_{name}:\s+(\d+)", text)), default=0)
        for name in ("count", "spill_count")
    )
    return _found(GCN.findall(text), registers, spilled)


def _ran(tool: str, *arguments: str) -> str:
    return subprocess.run([tools() / tool, *arguments], capture_output=True, text=True, check=True).stdout


def _found(opcodes: list[str], registers: int, spilled: int = 0) -> MachineCode:
    def count(pattern: re.Pattern[str]) -> int:
        return sum(bool(pattern.match(opcode)) for opcode in opcodes)

    local = count(LOCAL)
    return MachineCode(
        registers=registers,
        spilled=spilled or local,
        local=local,
        stores=count(STORES),
        wide_stores=count(WIDE),
        exponentials=count(EXPONENTIALS),
        atomics=count(ATOMICS),
        products=dict(sorted(Counter(code for code in opcodes if PRODUCTS.match(code)).items())),
    )

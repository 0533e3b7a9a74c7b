"""The architectures that Triton compiles for, and what one program may use of each.

Shared memory: NVIDIA's CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability",
"Maximum amount of shared memory per thread block" (opt-in); AMD's instruction set architecture documents
(CDNA 2, CDNA 3, RDNA 3), "local data share", for a workgroup, and of gfx950 the CDNA 4 white paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmat.testing.errors import CannotRun

KIB = 1024
MOST_THREADS = 1024  # of a program: CUDA's block, HIP's workgroup
MOST_TENSOR_MEMORY = 512  # columns, of sm_100 (PTX ISA, section "Tensor Memory Addressing")


@dataclass(frozen=True)
class Machine:
    """An architecture. shared: the bytes of shared memory that one program may have. units: processors."""

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int
    units: int
    title: str

    @property
    def version(self) -> tuple[int, int]:
        """The compute capability that torch reports: of AMD's gfx942 it is (9, 4)."""
        digits = self.name.removeprefix("sm_").removeprefix("gfx")
        return (int(digits[:-1]), int(digits[-1])) if self.backend == "cuda" else (int(digits[0]), 4)


def _cuda(capability: int, kib: int, units: int, title: str) -> Machine:
    return Machine(f"sm_{capability}", "cuda", capability, 32, kib * KIB, units, title)


def _hip(name: str, warp: int, kib: int, units: int, title: str) -> Machine:
    return Machine(name, "hip", name, warp, kib * KIB, units, title)


MACHINES = {
    machine.name: machine
    for machine in (
        _cuda(75, 64, 40, "Tesla T4"),
        _cuda(80, 163, 108, "NVIDIA A100"),
        _cuda(86, 99, 84, "NVIDIA RTX A6000"),
        _cuda(89, 99, 142, "NVIDIA L40S"),
        _cuda(90, 227, 132, "NVIDIA H100"),
        _cuda(100, 227, 148, "NVIDIA B200"),
        _cuda(120, 99, 188, "NVIDIA RTX PRO 6000"),
        _hip("gfx90a", 64, 64, 104, "AMD Instinct MI250X"),
        _hip("gfx942", 64, 64, 304, "AMD Instinct MI300X"),
        _hip("gfx950", 64, 160, 256, "AMD Instinct MI355X"),
        _hip("gfx1100", 32, 64, 96, "AMD Radeon RX 7900 XTX"),
    )
}
DEFAULT = ("sm_80", "sm_90", "gfx942")


def machines_named(names: Sequence[str]) -> list[Machine]:
    """Return the architectures of these names, each once. Raises CannotRun for an unknown one."""
    for name in names:
        if name not in MACHINES:
            raise CannotRun(f"--arch has {name!r}; expected some of {', '.join(MACHINES)}")
    return [MACHINES[name] for name in dict.fromkeys(names)]

"""Times and memory of every contestant at every length and dtype, and the ratios that were asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from rich.progress import track

from dmat.testing.devices import free_memory

from .contestants import NH, B, backward, double_loop, forward, gates
from .memory import peak
from .timing import Times, interleaved

LENGTHS = tuple(2**k for k in range(6, 16))
MOST_ON_CPU = 4096
DTYPES = ("float32", "bfloat16", "float16", "float64")
ON_CUDA = ("float32", "bfloat16")  # of which ratios are asked for there


def lengths(device: str) -> tuple[int, ...]:
    """Return the lengths that are measured on this device."""
    return tuple(S for S in LENGTHS if device != "cpu" or S <= MOST_ON_CPU)


@dataclass(frozen=True)
class Cell:
    """One call at one length and dtype."""

    direction: str
    dtype: str
    S: int
    name: str
    times: Times
    peak: int  # bytes

    @property
    def matrix(self) -> int:
        """Bytes of D~ or of its cotangent."""
        return B * NH * self.S**2 * int(getattr(torch, self.dtype).itemsize)


@dataclass(frozen=True)
class Ratio:
    """A ratio that was asked for."""

    what: str
    value: float
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is as asked."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def cells(
    device: str, lengths: tuple[int, ...], dtypes: tuple[str, ...], budget: float, *, compiled: bool
) -> list[Cell]:
    """Measure everything; `budget` is the seconds of a length, dtype and direction."""
    found = []
    places = [(S, dtype, make) for S in lengths for dtype in dtypes for make in (forward, backward)]
    for S, dtype, make in track(places, description="speed"):
        if not _fits(S, getattr(torch, dtype), device):
            continue
        torch.compiler.reset()  # it compiles a function for so many sizes, and is silent about the next
        calls = make(S, getattr(torch, dtype), device, compiled and dtype == "float32")
        times = interleaved(calls, budget, device)
        found += [
            Cell(make.__name__, dtype, S, name, times[name], peak(call, device))
            for name, call in calls.items()
        ]
    return found


def _fits(S: int, dtype: torch.dtype, device: str) -> bool:
    """Whether the formulas, which hold several matrices in float32, fit in the memory of a GPU."""
    free = free_memory(device)
    return free is None or B * NH * S * S * (4 * 5 + dtype.itemsize) < free


def ratios(found: list[Cell], device: str) -> list[Ratio]:
    """The ratios that were asked for, of those lengths that were measured."""
    times = {(c.direction, c.dtype, c.S, c.name): c.times.median for c in found}

    def ratio(direction: str, dtype: str, S: int, above: str, below: str, target: float) -> list[Ratio]:
        key, floor = (direction, dtype, S, above), (direction, dtype, S, below)
        if key not in times or floor not in times:
            return []
        what = f"{direction} {dtype} S = {S}: {above} / {below}"
        return [Ratio(what, times[key] / times[floor], target)]

    if device != "cpu":
        return [
            *(
                r
                for dtype in ON_CUDA
                for r in ratio("forward", dtype, 8192, "dtilde(out=)", "fill", 1 / 0.85)
            ),
            *(r for dtype in ON_CUDA for r in ratio("backward", dtype, 8192, "dtilde", "G.sum()", 0.65)),
        ]
    return [
        *(r for S in (1024, 2048) for r in ratio("forward", "float32", S, "dtilde", "torch.full", 1.3)),
        *ratio("forward", "float32", 1024, "dtilde(out=)", "fill", 3.5),
        *ratio("forward", "float32", 256, "dtilde", "formula", 1.0),
        *ratio("forward", "float32", 64, "dtilde", "formula", 2.0),
        *(r for S in (1024, 2048) for r in ratio("backward", "float32", S, "dtilde", "G.sum()", 2.5)),
        *(
            r
            for dtype in ("bfloat16", "float16")
            for S in (1024, 2048)
            for r in ratio("forward", dtype, S, "dtilde", "torch.full", 1.5)
        ),
        *_memory_ratios(found),
    ]


def _memory_ratios(found: list[Cell]) -> list[Ratio]:
    """Peak memory beside the output, and beside the gradients, over the matrix, at S = 2048."""
    ratios = []
    for cell in found:
        if (cell.S, cell.dtype, cell.name) == (2048, "float32", "dtilde"):
            output, target = (cell.matrix, 0.03) if cell.direction == "forward" else (0, 0.06)
            what = f"{cell.direction} float32 S = 2048: peak extra memory / matrix"
            ratios.append(Ratio(what, (cell.peak - output) / cell.matrix, target))
    return ratios


def over_double_loop(S: int) -> Ratio:
    """How much faster backward is than a double loop over (t, s), which is called once."""
    _, f = gates(S, torch.float32, "cpu")
    G = torch.randn(B, NH, S, S, generator=torch.Generator().manual_seed(S))
    start = time.perf_counter()
    double_loop(G, f)
    loop = time.perf_counter() - start
    calls = {"dtilde": backward(S, torch.float32, "cpu", False)["dtilde"]}
    ours = interleaved(calls, 1.0, "cpu")["dtilde"].median
    return Ratio(f"backward float32 S = {S}: a double loop / dtilde", loop / ours, 1000.0, at_least=True)

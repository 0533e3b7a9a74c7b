"""The parts of first_gpu.py that are code: each prints what it finds, in a process of its own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from dmat.testing import devices

from . import on_cuda, speed, write

LENGTHS = (1024, 4096, 8192)
CASES = [(S, dtype) for S in (1, 5, 33, 70) for dtype in ("float32", "bfloat16")]


def versions(device: str) -> None:
    """Print the device, its driver, and the packages that a result depends on."""
    print(devices.model(device), f"free memory {(devices.free_memory(device) or 0) / 2**30:.1f} GiB")
    if shutil.which("nvidia-smi"):
        fields = "name,driver_version,memory.total,power.limit"
        subprocess.run(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], check=False)
    print(f"python {platform.python_version()}, CUDA {torch.version.cuda}, HIP {torch.version.hip}")
    for package in ("torch", "triton", "numpy", "dmat", "fla-core"):
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "is not installed")


def bandwidth(device: str, lengths: tuple[int, ...] = LENGTHS) -> None:
    """Print the times of forward and backward over those of their floors."""
    cells = speed.cells(device, lengths, speed.ON_CUDA, 1.0, compiled=False)
    print(write.of_ratios(speed.ratios(cells, device)))
    print(write.of_cells(cells))


def bits() -> None:
    """Print whether bits repeat, and whether offsets past 2^31 are right."""
    print(on_cuda.same_bits(50))
    print(on_cuda.past_31_bits())


def sanitizer() -> None:
    """Print what compute-sanitizer finds, or that it is not installed."""
    print(*on_cuda.sanitized(), sep="\n")


def interpreter(device: str) -> None:
    """Print how far our Triton kernels on the device lie from the same kernels in the interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{where}.npz") for where in ("interpreter", "device")]
        code = f"from benchmarks import on_first_gpu; on_first_gpu.sums('cpu', {str(files[0])!r})"
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True)
        sums(device, str(files[1]))
        there, here = (np.load(file) for file in files)
        for name in there.files:
            equal = np.array_equal(there[name], here[name], equal_nan=True)
            with np.errstate(invalid="ignore"):
                apart = np.nanmax(np.abs(there[name] - here[name]), initial=0.0)
            print(f"{name}: {'the same bits' if equal else f'at most {apart:.3g} apart'}")


def sums(device: str, file: str) -> None:
    """Write window sums and rectangle sums of the same inputs, by our Triton kernels on this device."""
    if device == devices.CPU:
        from dmat.testing.interpret.install import install

        install()
    from dmat.triton_kernels import rectangle_sums, window_sums

    found = {}
    for S, dtype in CASES:
        drawn = torch.Generator().manual_seed(S)
        i, f = (torch.randn(2, 3, S, dtype=torch.float64, generator=drawn) for _ in "if")
        G = torch.randn(2, 3, S, S, dtype=torch.float64, generator=drawn).to(getattr(torch, dtype))
        log_f = torch.nn.functional.logsigmoid(f + 3)
        D = window_sums(i.to(device), log_f.to(device), -torch.inf, G.dtype)
        columns, rectangles = rectangle_sums(G.to(device), summed=False)
        for name, x in (("D~", D), ("di", columns), ("rectangles", rectangles)):
            found[f"{name}, S = {S}, {dtype}"] = x.cpu().double().numpy()
    np.savez(file, allow_pickle=False, **found)

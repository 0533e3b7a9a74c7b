"""What only a GPU can show: the same bits each time, offsets past 2^31, a clean compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys

import torch

from dmat import dtilde

from .contestants import NH, B, gates


def once() -> None:
    """One forward and backward of each dtype at odd lengths: what compute-sanitizer watches."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for S in (1, 77, 300):
            i, f = (gate.requires_grad_() for gate in gates(S, dtype, "cuda"))
            dtilde(i, f).tril().sum().backward()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()


def same_bits(times: int) -> str:
    """Whether forward and gradients have the same bits each time."""
    i, f = (gate.requires_grad_() for gate in gates(1000, torch.float32, "cuda"))
    G = torch.randn(B, NH, 1000, 1000, device="cuda", generator=torch.Generator("cuda").manual_seed(0))

    def call() -> tuple[torch.Tensor, ...]:
        D = dtilde(i, f)
        return D.detach(), *torch.autograd.grad(D, (i, f), G)

    first = call()
    equal = all(torch.equal(a, b) for _ in range(times) for a, b in zip(first, call(), strict=True))
    return f"bits of {times} calls: {'the same' if equal else 'DIFFERENT'}"


def past_31_bits() -> str:
    """Whether the last rows of an output of more than 2^31 elements are those of the same gates alone."""
    S = 17_000  # 8 S^2 = 2.3e9
    if 8 * S**2 * 2 > torch.cuda.mem_get_info()[0] // 2:
        return "past 2^31 elements: not run, too little memory"
    i, f = gates(S, torch.bfloat16, "cuda")
    D, alone = dtilde(i, f)[-1, -1, -64:, -64:], dtilde(i[-1:, -1:, -64:], f[-1:, -1:, -64:])[0, 0]
    return f"past 2^31 elements: {'right' if torch.equal(D, alone) else 'WRONG'}"


def sanitized() -> list[str]:
    """What compute-sanitizer finds, by each of two of its tools."""
    binary = shutil.which("compute-sanitizer")
    if binary is None:
        return ["compute-sanitizer: not run, not on the path"]
    found = []
    for tool in ("memcheck", "racecheck"):
        code = "from benchmarks.on_cuda import once; once()"
        command = [binary, "--tool", tool, "--error-exitcode", "3", sys.executable, "-c", code]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        found.append(f"compute-sanitizer {tool}: {'clean' if run.returncode == 0 else run.stdout[-2000:]}")
    return found


def all_of_it() -> list[str]:
    """A line for each check."""
    return [same_bits(100), past_31_bits(), *sanitized()]

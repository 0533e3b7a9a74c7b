"""The CUDA kernels keep their laws (triton_laws.py), on the device and in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from dmat.testing.interpret.choice import TRITON

LAWS = Path(__file__).with_name("triton_laws.py")


@pytest.mark.parametrize("where", ["interpreter", "cuda"])
def test_the_kernels_keep_their_laws(where: str) -> None:
    """Every law of triton_laws.py passes, in a process of its own: triton is either one or the other."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton")
    if where == "interpreter" and metadata.version("triton") != TRITON:
        pytest.skip(f"needs triton {TRITON}")
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    environment = os.environ | {"TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(LAWS)]
    command += ["-o", "addopts=--strict-markers -rs"]
    run = subprocess.run(
        command, env=environment, cwd=LAWS.parents[1], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr

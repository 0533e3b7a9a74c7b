"""`dmat check` of 20 kernels of the zoos, stored or compared: `python -m tests.zoo.check20 FILE`.

Without FILE, the exit code and the failed laws of each are written there. With it, each exit code must be the
same; which laws fail may vary with what is drawn, and is reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .adapter import ROOT, kernels

RIGHT = (
    "right.chunkwise",
    "right.row_recurrence",
    "right.cumulative_sum_difference",
    "right.mask_added",
    "right.whole_chunks_only",
    "right.base_two",
    "fused_right.chunks_of_4",
    "fused_right.recurrent",
    "fused_right.mlstm_parallel",
    "fused_right.forgetting_attention",
)
WRONG = (
    "wrong.carry_forgotten",
    "wrong.mask_of_1e9",
    "wrong.tail_gradient_dropped",
    "wrong.nan_through_product",
    "wrong.tangent_without_slope",
    "fused_wrong.carry_not_decayed",
    "fused_wrong.softmax_delta",
    "fused_wrong.state_ignored",
    "fused_wrong.not_stabilised",
    "fused_wrong.static_buffer",
)


def __getattr__(group: str) -> SimpleNamespace:
    """Let tests.zoo.check20:wrong.carry_forgotten be a TARGET."""
    members = {name.partition(".")[2]: x for name, x in kernels().items() if name.startswith(f"{group}.")}
    if not members:
        raise AttributeError(group)
    return SimpleNamespace(**members)


def checked(kernel: str) -> dict[str, Any]:
    """Run `dmat check` of a kernel in an empty folder; return its exit code and the laws that failed."""
    with tempfile.TemporaryDirectory() as empty:
        options = f"--dtype float32 --examples 50 -n 1 --counterexamples= tests.zoo.check20:{kernel}".split()
        command = [str(Path(sys.executable).with_name("dmat")), "check", "--json", "report.json", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        code = subprocess.run(command, cwd=empty, env=environment, stdout=subprocess.DEVNULL).returncode
        report = json.loads(Path(empty, "report.json").read_text())
    return {"exit": code, "failed": sorted(x["law"] for x in report["laws"] if x["status"] == "failed")}


def main() -> int:
    """Check all 20; return 1 where an exit code is another than was stored."""
    file = Path(sys.argv[1])
    stored = json.loads(file.read_text()) if file.is_file() else None
    found, unlike = {}, 0
    for kernel in (*RIGHT, *WRONG):
        now = found[kernel] = checked(kernel)
        was = now if stored is None else stored[kernel]
        unlike += now["exit"] != was["exit"]
        text = "" if now == was else f"; WAS exit {was['exit']}, {was['failed']}"
        print(f"{kernel}: exit {now['exit']}, {now['failed']}{text}", flush=True)
    if stored is None:
        file.write_text(json.dumps(found, indent=1))
    print(f"{len(found)} kernels, {unlike} of another exit code")
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())

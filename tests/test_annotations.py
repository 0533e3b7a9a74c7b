"""The operator takes the shapes in its signatures: beartype checks them, in a separate process."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook(["dmat.operator", "dmat.segments", "dmat.reference"], "beartype.beartype"):
    from dmat import dtilde, rectangle_sum, segment_sum, vlstm_fw_Dtildemat, vlstm_fwbw_Dtildemat
import torch
i, f = torch.zeros(2, 3, 4, 1), torch.zeros(2, 3, 4, 1)
for operator in (dtilde, vlstm_fw_Dtildemat, vlstm_fwbw_Dtildemat):
    operator(i, f)
rectangle_sum(segment_sum(f.squeeze(-1)).tril())
try:
    dtilde(i, f[:, :, :3])
except TypeCheckError:
    print("checked")
"""


def test_annotations() -> None:
    """Right calls pass their annotations, and a wrong shape does not."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, check=False
    )
    assert done.stdout == "checked\n", done.stderr

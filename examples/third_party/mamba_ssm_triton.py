"""mamba-ssm 2.3.2.post1, its Triton kernels: Mamba-2's chunked scan.

Install: as mamba_ssm.py says, with triton==3.7.1; `dmat check --interpret` runs them on the CPU. A = -1, so
that dt = -log gate is both the decay and the weight; the whole one takes all arguments.
"""

import torch
from mamba_ssm_imports import stand_in

stand_in()

from mamba_ssm.ops.triton import ssd_combined as mamba2

from dmat.testing import fused

MAMBA = {
    "weight": "dt", "layout": "BSHD", "dtypes": ("float32", "bfloat16"), "gate_dtype": "float32",
    "accumulates_in": "float32", "multiplies_in": "input", "K": (16,), "V": 16, "states": "initial_states",
    "grad_scope": "suffix", "lengths": (1, 2, 15, 16, 17, 33, 64, 65),
}  # fmt: skip
WHOLE = MAMBA | {
    "gate": "dt", "gate_parameters": ("A", "dt_bias"), "skip": "head", "z": True, "gates": "absolute",
}  # fmt: skip


def scan(size):
    """Make the chunked scan of this chunk size."""

    def o(q, k, v, g, initial_states=None):
        more = {"initial_states": initial_states, "return_final_states": True}
        x, dt, B, C = (x.contiguous() for x in (v, -g, k, q))
        return mamba2.mamba_chunk_scan_combined(x, dt, -torch.ones(g.shape[-1]), B, C, size, **more)

    return o


# fmt: off

mamba_chunk_scan_combined_16 = fused(scan(16), error_scope=16, factors=16, **MAMBA)
mamba_chunk_scan_combined_64 = fused(scan(64), error_scope=64, factors=64, **MAMBA)
mamba_chunk_scan_combined_whole = fused(  # softplus is log(1 + exp(y)) up to 20: gates="absolute"
    lambda q, k, v, dt, A, bias, D, z, initial_states=None: mamba2.mamba_chunk_scan_combined(
        *(x.contiguous() for x in (v, dt, A, k, q)), 16, D, z.contiguous(), bias, initial_states,
        dt_softplus=True, dt_limit=(0.01, 0.5), return_final_states=True),
    error_scope=16, factors=16, group=2, dt_limit=(0.01, 0.5), **WHOLE)

"""mamba-ssm 2.3.2.post1, its plain PyTorch forms: Mamba-1's selective scan, Mamba-2's SSD, segment sums.

Install: MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-deps --no-build-isolation
mamba-ssm==2.3.2.post1, and einops, triton, transformers, which it imports. Without its CUDA extension it
imports only if there is something of that name: an empty module stands in, and nothing here calls it. A =
-1 where dt = -log gate is both the decay and the weight; those named _whole take all
arguments. Chunks are 4 long, an argument of theirs.
"""

import torch
from mamba_ssm_imports import stand_in

stand_in()

from mamba_ssm.modules import ssd_minimal
from mamba_ssm.ops import selective_scan_interface as mamba1
from mamba_ssm.ops.triton import ssd_combined as mamba2

from dmat.testing import fused

CHUNKS = {"factors": 4, "grad_scope": "suffix", "seq_multiple_of": 4, "max_seq": 24, "layout": "BSHD"}
SUMS = {"reads": "log", "dtypes": ("float32", "bfloat16"), "accumulates_in": {"bfloat16": "bfloat16"}}
ONLY = {"dtypes": ("float32",)}
WHOLE = {
    "gate": "dt", "weight": "dt", "gate_parameters": ("A", "dt_bias"), "group": 2, "skip": "head", "z": True,
    "gate_dtype": "float32",
}  # fmt: skip


def minus_one(*shape):
    """Return A."""
    return -torch.ones(shape)


def folded(x):
    """Take (B, NH, S, n) to (B NH, n, S): Mamba-1 shares q and k among the channels of a batch."""
    return x.flatten(0, 1).mT


# fmt: off

selective_scan_ref = fused(
    lambda q, k, v, g: mamba1.selective_scan_ref(
        folded(v), folded(-g.float()[..., None].expand(v.shape)), minus_one(v.shape[-1], k.shape[-1]),
        folded(k), folded(q)).mT.reshape(v.shape),
    weight="dt", accumulates_in="float32", dtypes=("float32", "bfloat16"), max_seq=40)
ssd_minimal_discrete = fused(
    lambda q, k, v, g: ssd_minimal.ssd_minimal_discrete(v, g, k, q, block_len=4)[0],
    error_scope=4, **CHUNKS, **ONLY)
ssd_chunk_scan_combined_ref = fused(  # states pass by differences of sums over all chunks: "prefix"
    lambda q, k, v, g: mamba2.ssd_chunk_scan_combined_ref(v, -g, minus_one(g.shape[-1]), k, q, chunk_size=4),
    weight="dt", error_scope="prefix", **CHUNKS, **ONLY)
segsum = fused(ssd_minimal.segsum, **SUMS)
segsum_unstable = fused(ssd_minimal.segsum_unstable, error_scope="prefix", **SUMS)
selective_scan_ref_whole = fused(  # a decay a channel and a state: heads of one channel of v
    lambda q, k, v, dt, A, bias, D, z: mamba1.selective_scan_ref(
        v[..., 0].mT, dt.mT, A[:, None].expand(-1, k.shape[-1]), k.permute(0, 2, 3, 1), q.permute(0, 2, 3, 1),
        D, z[..., 0].mT, bias, delta_softplus=True).mT[..., None],
    layout="BSHD", V=(1,), dtypes=("float32", "bfloat16"), accumulates_in="float32", max_seq=40,
    multiplies_in={"bfloat16": "bfloat16"}, **WHOLE)
ssd_chunk_scan_combined_ref_whole = fused(
    lambda q, k, v, dt, A, bias, D, z: mamba2.ssd_chunk_scan_combined_ref(
        v, dt, A, k, q, 4, D, z, bias, dt_softplus=True),
    error_scope="prefix", **CHUNKS, **ONLY, **WHOLE)
mamba_chunk_scan_whole = fused(
    lambda q, k, v, dt, A, bias, D, z: mamba2.mamba_chunk_scan(
        v, dt, A, k, q, 4, D, z, bias, dt_softplus=True),
    error_scope=4, **CHUNKS, **ONLY, **WHOLE)

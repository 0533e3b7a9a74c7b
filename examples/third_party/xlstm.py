"""xlstm 2.0.6, its plain PyTorch mLSTM: parallel, in chunks, step by step.

Install: pip install --no-deps xlstm==2.0.6, and einops, omegaconf, dacite, which it imports. eps = 0 and
chunks of 4 are arguments of theirs. `..._wide`: input gates down to -100; the blocks of xlstm start them at
about -10.
"""

import torch
from xlstm.blocks.mlstm import backends

from dmat.testing import fused

MLSTM = {"reads": "mlstm", "gate": "preact", "igate": True, "scale": "K**-0.5", "max_seq": 24}
ONLY = {"dtypes": ("float32",)}
WIDE = {"i_range": (-100, 60), **ONLY}
HALF = {"i_range": (-10, 2), "dtypes": ("float16",), "accumulates_in": "float32"}
PARALLEL = {"error_scope": "prefix", "factors": "one", "grad_scope": "suffix"}
CHUNKS = {"error_scope": 4, "factors": 4, "grad_scope": "suffix", "seq_multiple_of": 4}
SQUARE = {"K": (16,), "V_equals_K": True}


def steps(q, k, v, i, f, state=None):
    """Go on from a state, time by time; the step takes its q, k, v apart in place, so it gets copies."""
    B, NH, S, K = q.shape
    empty = (q.new_zeros(B, NH, K, v.shape[-1]), q.new_zeros(B, NH, K, 1), q.new_zeros(B, NH, 1, 1))
    state, found = state or empty, []
    for t in range(S):
        now = slice(t, t + 1)
        products, gates = (x[:, :, now].clone() for x in (q, k, v)), (x[:, :, now, None] for x in (i, f))
        o, state = backends.recurrent_step_stabilized_simple(*state, *products, *gates, eps=0.0)
        found.append(o)
    return torch.cat(found, dim=2), state


# fmt: off

parallel_stabilized_simple = fused(
    lambda q, k, v, i, f: backends.parallel_stabilized_simple(q, k, v, i[..., None], f[..., None], eps=0.0),
    **PARALLEL, **MLSTM, **ONLY)
chunkwise_simple = fused(
    lambda q, k, v, i, f: backends.chunkwise_simple(q, k, v, i, f, chunk_size=4, eps=0.0),
    **SQUARE, **CHUNKS, **MLSTM, **ONLY)
recurrent_step_stabilized_simple = fused(steps, states="state", **MLSTM, **ONLY)
parallel_stabilized_simple_wide = fused(parallel_stabilized_simple, **PARALLEL, **MLSTM, **WIDE)
parallel_stabilized_simple_float16 = fused(parallel_stabilized_simple, **PARALLEL, **MLSTM, **HALF)
chunkwise_simple_wide = fused(chunkwise_simple, **SQUARE, **CHUNKS, **MLSTM, **WIDE)
recurrent_step_stabilized_simple_wide = fused(steps, states="state", **MLSTM, **WIDE)

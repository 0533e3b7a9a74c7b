"""mlstm_kernels 2.0.6, its plain PyTorch forms ("native"): parallel, chunkwise, recurrent.

Install: pip install --no-deps mlstm_kernels==2.0.6, and einops, triton, which it imports. eps = 0 and
chunks of 4 are arguments of theirs. "custbw" has a backward of its own, in which the normaliser counts as a
constant, as its authors say. `..._wide`: input gates down to -100; the xLSTM models start them at about
-10.
"""

from mlstm_kernels.torch.chunkwise import native as chunkwise
from mlstm_kernels.torch.parallel import native, native_stablef
from mlstm_kernels.torch.recurrent import native_sequence

from dmat.testing import fused

MLSTM = {"reads": "mlstm", "gate": "preact", "igate": True, "scale": "K**-0.5", "max_seq": 24}
ONLY = {"dtypes": ("float32",)}
WIDE = {"i_range": (-100, 60), **ONLY}
HALF = {"i_range": (-10, 2), "dtypes": ("float16",), "accumulates_in": "float32"}
PARALLEL = {"error_scope": "prefix", "factors": "one", "grad_scope": "suffix"}
STABLE = {"factors": "one"}
CHUNKS = {"error_scope": 4, "factors": 4, "grad_scope": "suffix", "seq_multiple_of": 4}
OWN = {"gradient": "truncated", "grad_scope": "suffix"}


def initial(state):
    """Return a state as its keywords."""
    return {} if state is None else dict(zip(("c_initial", "n_initial", "m_initial"), state, strict=True))


# fmt: off

parallel_native_autograd = fused(
    lambda q, k, v, i, f: native.mlstm_parallel__native_autograd(q, k, v, i, f, eps=0.0),
    **PARALLEL, **MLSTM, **ONLY)
parallel_native_custbw = fused(
    lambda q, k, v, i, f: native.mlstm_parallel__native_custbw(q, k, v, i, f, eps=0.0),
    **(PARALLEL | OWN), **MLSTM, **ONLY)
parallel_native_stablef_autograd = fused(
    lambda q, k, v, i, f: native_stablef.mlstm_parallel__native_stablef_autograd(q, k, v, i, f, eps=0.0),
    **STABLE, **MLSTM, **ONLY)
parallel_native_stablef_custbw = fused(
    lambda q, k, v, i, f: native_stablef.mlstm_parallel__native_stablef_custbw(q, k, v, i, f, eps=0.0),
    **STABLE, **OWN, **MLSTM, **ONLY)
chunkwise_native_autograd = fused(
    lambda q, k, v, i, f, state=None: chunkwise.mlstm_chunkwise__native_autograd(
        q, k, v, i, f, chunk_size=4, eps=0.0, return_last_states=True, **initial(state)),
    states="state", **CHUNKS, **MLSTM, **ONLY)
chunkwise_native_custbw = fused(
    lambda q, k, v, i, f: chunkwise.mlstm_chunkwise__native_custbw(q, k, v, i, f, chunk_size=4, eps=0.0),
    **(CHUNKS | OWN), **MLSTM, **ONLY)
recurrent_native_sequence = fused(
    lambda q, k, v, i, f, state=None: native_sequence.mlstm_recurrent_sequence__native_fw(
        q, k, v, i, f, eps=0.0, return_last_states=True, **initial(state)),
    states="state", **MLSTM, **ONLY)

parallel_native_autograd_wide = fused(parallel_native_autograd, **PARALLEL, **MLSTM, **WIDE)
parallel_native_custbw_wide = fused(parallel_native_custbw, **(PARALLEL | OWN), **MLSTM, **WIDE)
parallel_native_stablef_autograd_wide = fused(parallel_native_stablef_autograd, **STABLE, **MLSTM, **WIDE)
parallel_native_stablef_custbw_wide = fused(parallel_native_stablef_custbw, **STABLE, **OWN, **MLSTM, **WIDE)
chunkwise_native_autograd_wide = fused(chunkwise_native_autograd, states="state", **CHUNKS, **MLSTM, **WIDE)
chunkwise_native_custbw_wide = fused(chunkwise_native_custbw, **(CHUNKS | OWN), **MLSTM, **WIDE)
recurrent_native_sequence_wide = fused(recurrent_native_sequence, states="state", **MLSTM, **WIDE)

parallel_native_autograd_float16 = fused(parallel_native_autograd, **PARALLEL, **MLSTM, **HALF)
parallel_native_custbw_float16 = fused(parallel_native_custbw, **(PARALLEL | OWN), **MLSTM, **HALF)
parallel_native_stablef_autograd_float16 = fused(parallel_native_stablef_autograd, **STABLE, **MLSTM, **HALF)

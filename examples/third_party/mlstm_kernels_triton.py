"""mlstm_kernels 2.0.6, its Triton kernels: xl_chunk, limit_chunk, parallel limit_headdim.

Install: pip install --no-deps mlstm_kernels==2.0.6, and einops, triton==3.7.1 (later ones lack the block
pointers it needs); `dmat check --interpret` runs them on the CPU. The normaliser counts as a constant in
its backward, as its authors say. eps = 0 and the chunk sizes are arguments of theirs.
"""

from mlstm_kernels.torch.chunkwise.triton_limit_chunk import mlstm_chunkwise__limit_chunk
from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk
from mlstm_kernels.torch.parallel.triton_limit_headdim import mlstm_parallel__limit_headdim

from dmat.testing import fused

MLSTM = {
    "reads": "mlstm", "gate": "preact", "igate": True, "scale": "K**-0.5", "dtypes": ("float32", "bfloat16"),
    "accumulates_in": "float32", "multiplies_in": "input", "V": 16, "gradient": "truncated",
    "grad_scope": "suffix",
}  # fmt: skip


def given(fn, size=None, states=True):
    """Call a kernel on contiguous tensors, in the dtype of q."""

    def o(q, k, v, i, f, state=None):
        more = {"eps": 0.0, "autocast_kernel_dtype": q.dtype} | ({"chunk_size": size} if size else {})
        more |= {"return_last_states": True} if states else {}
        initial = zip(("c_initial", "n_initial", "m_initial"), state or (), strict=False)
        return fn(*(x.contiguous() for x in (q, k, v, i, f)), **more, **dict(initial))

    return o


# fmt: off

xl_chunk_64 = fused(
    given(mlstm_chunkwise__xl_chunk, 64), states="state", K=(16,), lengths=(64, 128), error_scope=64,
    factors=64, **MLSTM)
xl_chunk_32 = fused(
    given(mlstm_chunkwise__xl_chunk, 32), states="state", K=(16,), lengths=(32, 64, 128),
    error_scope="prefix", factors=32, **MLSTM)
limit_chunk_16 = fused(
    given(mlstm_chunkwise__limit_chunk, 16), states="state", K=(16,), lengths=(16, 32, 64), error_scope=16,
    factors=16, **MLSTM)
parallel_limit_headdim = fused(
    given(mlstm_parallel__limit_headdim, states=False), K=(64,), V_equals_K=True, lengths=(64, 128),
    error_scope="prefix", factors="one", **MLSTM)

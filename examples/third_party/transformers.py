"""transformers 5.24.0, its plain PyTorch fallbacks: gated delta rule, KDA, mLSTM, Mamba-2's segment sum.

Install: pip install transformers==5.24.0. Its mLSTM is defined only where the package xlstm is not
installed: that is said here. Kernels from a hub would replace some of the others: their plain form is
__wrapped__. Chunks are 4 long, an argument of theirs.
"""

import torch
import transformers.utils as utils

utils.is_xlstm_available = utils.import_utils.is_xlstm_available = lambda: False

from torch.nn.functional import softplus
from transformers.models.kimi_linear import modeling_kimi_linear as kimi
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.mamba2.modeling_mamba2 import segment_sum as of_mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen
from transformers.models.xlstm import modeling_xlstm as xlstm

from dmat.testing import fused

DELTA = {
    "reads": "delta", "layout": "BSHD", "K": (4, 16), "scale": "K**-0.5",
    "states": "initial_state", "accumulates_in": "float32", "dtypes": ("float32", "bfloat16"),
}  # fmt: skip
LAYER = {  # as Qwen3-Next's layer calls them: two value heads a key head, gates and beta made before the call
    "group": 2, "l2norm": 1e-6, "gate": "dt", "gate_dtype": "float32", "beta_in": "logit",
}  # fmt: skip
L2NORM = {"use_qk_l2norm_in_kernel": True}
CHUNKS = {"error_scope": 4, "factors": 4, "grad_scope": "suffix"}
MLSTM = {
    "reads": "mlstm", "gate": "preact", "igate": True, "scale": "K**-0.5", "states": "state",
    "dtypes": ("float32",), "max_seq": 24,
}  # fmt: skip
SUMS = {"reads": "log", "dtypes": ("float32", "bfloat16"), "accumulates_in": {"bfloat16": "bfloat16"}}
MAMBA = {
    "gate": "dt", "weight": "dt", "gate_parameters": ("A", "dt_bias"), "layout": "BSHD", "group": 2,
    "skip": "head", "dtypes": ("float32", "bfloat16"), "gate_dtype": "float32", "max_seq": 40,
}  # fmt: skip
STEPS = {"dt_softplus": True, "dt_limit": (0.001, 0.5), "return_final_states": True}
KEPT = {"output_final_state": True}
LAST = {"eps": 0.0, "return_last_states": True}


def plain(fn):
    """Return a function as it is written, without what would fetch another in its place."""
    return getattr(fn, "__wrapped__", fn)


def initial(state):
    """Return an mLSTM's state as its keywords."""
    return {} if state is None else dict(zip(("c_initial", "n_initial", "m_initial"), state, strict=True))


def steps(update, q, k, v, dt, A, bias, D, z):
    """Call a decode step at each time. Its A, dt, D, dt_bias have an axis for the head's size."""
    state = v.new_zeros(*v[:, 0].shape, q.shape[-1], dtype=torch.float32)
    A, bias, D = (x[:, None].expand(-1, v.shape[-1]) for x in (A, bias, D))
    A, dt = A[..., None].expand(*A.shape, q.shape[-1]), dt[..., None].expand(v.shape)
    each = (
        (state, v[:, t], dt[:, t], A, k[:, t], q[:, t], D, bias, True, z[:, t]) for t in range(v.shape[1])
    )
    return torch.stack([update(*inputs) for inputs in each], 1)


# fmt: off

torch_chunk_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: plain(qwen.torch_chunk_gated_delta_rule)(
        q, k, v, g, b, chunk_size=4, **KEPT, **s),
    **CHUNKS, **DELTA)
torch_recurrent_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: plain(qwen.torch_recurrent_gated_delta_rule)(
        q, k, v, g, b, **(KEPT | {"initial_state": None} | s)),
    **DELTA)
chunk_kimi_delta_attention = fused(
    lambda q, k, v, g, b, **s: plain(kimi.chunk_kimi_delta_attention)(
        q, k, v, g, b, chunk_size=4, **KEPT, **s),
    gates_by="channel", gate_dtype="float32", **CHUNKS, **DELTA)
recurrent_kimi_delta_attention = fused(
    lambda q, k, v, g, b, **s: plain(kimi.recurrent_kimi_delta_attention)(
        q, k, v, g, b, **(KEPT | {"initial_state": None} | s)),
    gates_by="channel", gate_dtype="float32", **DELTA)
torch_chunk_gated_delta_rule_layer = fused(
    lambda q, k, v, a, b, A_log, dt_bias, **s: plain(qwen.torch_chunk_gated_delta_rule)(
        q, k, v, -A_log.exp() * softplus(a + dt_bias), b.sigmoid(), chunk_size=4, **L2NORM, **KEPT, **s),
    **LAYER, **CHUNKS, **DELTA)
torch_recurrent_gated_delta_rule_layer = fused(
    lambda q, k, v, a, b, A_log, dt_bias, **s: plain(qwen.torch_recurrent_gated_delta_rule)(
        q, k, v, -A_log.exp() * softplus(a + dt_bias), b.sigmoid(), **L2NORM,
        **(KEPT | {"initial_state": None} | s)),
    **LAYER, **DELTA)
segment_sum = fused(of_mamba2, **SUMS)
mlstm_recurrent_sequence_native = fused(
    lambda q, k, v, i, f, state=None: xlstm.mlstm_recurrent_sequence_native(
        q, k, v, i, f, **LAST, **initial(state)),
    **MLSTM)
mlstm_chunkwise_native_autograd = fused(
    lambda q, k, v, i, f, state=None: xlstm.mlstm_chunkwise_native_autograd(
        q, k, v, i, f, chunk_size=4, **LAST, **initial(state)),
    seq_multiple_of=4, **CHUNKS, **MLSTM)
mlstm_recurrent_sequence_native_wide = fused(
    mlstm_recurrent_sequence_native, i_range=(-100, 60), **MLSTM)
mlstm_chunkwise_native_autograd_wide = fused(
    mlstm_chunkwise_native_autograd, i_range=(-100, 60), seq_multiple_of=4, **CHUNKS, **MLSTM)
mamba2_chunk_scan = fused(  # Bamba, Falcon-H1, Granite, Nemotron-H, Zamba2: the same, word for word
    lambda q, k, v, dt, A, bias, D, **s: plain(mamba2.mamba2_chunk_scan)(
        v, dt, A, k, q, 4, D=D, dt_bias=bias, **STEPS, **s),
    dt_limit=STEPS["dt_limit"], states="initial_states", output_dtype="float32", **CHUNKS, **MAMBA)
mamba2_selective_state_update = fused(
    lambda *x: steps(plain(mamba2.mamba2_selective_state_update), *x), z=True, gradient="none",
    multiplies_in={"bfloat16": "bfloat16"}, **MAMBA)

"""fla-core 0.6.0, its plain PyTorch forms: simple GLA, GLA, (gated) delta rules, retention, forgetting
attention.

Install: pip install --no-deps fla-core==0.6.0, and einops. Chunks are 4 long here, an argument of theirs,
so that cases are small.
"""

import torch
from around import scan
from fla.ops.forgetting_attn import naive as forgetting
from fla.ops.gated_delta_rule import naive as delta
from fla.ops.gla import naive as gla
from fla.ops.hgrn import naive as hgrn
from fla.ops.kda import naive as kda
from fla.ops.kda.gate import naive_kda_gate, naive_kda_lowerbound_gate
from fla.ops.log_linear_attn import naive as log_linear
from fla.ops.retention import naive as retention
from fla.ops.simple_gla import naive as simple

from dmat.testing import fused

F32 = {"accumulates_in": "float32", "layout": "BSHD", "max_seq": 40}
HALF = {"dtypes": ("float32", "bfloat16")}
WIDENED = {"dtypes": ("float32", "bfloat16"), "output_dtype": "float32"}  # they return what they sum in
CHUNKS = {"error_scope": 4, "factors": 4, "grad_scope": "suffix"}
KEPT = {"output_final_state": True}
BY_CHANNEL = {"gates_by": "channel", "gate_dtype": "float32"}
SUMS = {"reads": "log", "dtypes": ("float32", "bfloat16"), "accumulates_in": {"bfloat16": "bfloat16"}}
DELTA = {"reads": "delta", "states": "initial_state"}

# fmt: off

naive_recurrent_simple_gla = fused(
    lambda q, k, v, g, **s: simple.naive_recurrent_simple_gla(q, k, v, g, scale=1.0, **s),
    states="initial_state", **HALF, **F32)
naive_parallel_simple_gla = fused(
    lambda q, k, v, g: simple.naive_parallel_simple_gla(q, k, v, g, scale=1.0)[0],
    error_scope="prefix", factors="one", grad_scope="suffix", **WIDENED, **F32)
naive_chunk_simple_gla = fused(
    lambda q, k, v, g, **s: simple.naive_chunk_simple_gla(q, k, v, g, chunk_size=4, scale=1.0, **KEPT, **s),
    states="initial_state", **CHUNKS, **WIDENED, **F32)
naive_recurrent_gla = fused(
    lambda q, k, v, g, **s: gla.naive_recurrent_gla(q, k, v, g, **KEPT, **s),
    scale="K**-0.5", states="initial_state", **BY_CHANNEL, **HALF, **F32)
naive_recurrent_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: delta.naive_recurrent_gated_delta_rule(
        q, k, v, b, g, scale=1.0, **KEPT, **s),
    **WIDENED, **(F32 | DELTA))
naive_chunk_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: delta.naive_chunk_gated_delta_rule(
        q, k, v, g, b, chunk_size=4, scale=1.0, **KEPT, **s),
    **CHUNKS, **WIDENED, **(F32 | DELTA))
naive_recurrent_kda = fused(
    lambda q, k, v, g, b, **s: kda.naive_recurrent_kda(
        q, k, v, g, b, scale=1.0, **KEPT, **s),
    **BY_CHANNEL, **HALF, **(F32 | DELTA))
naive_recurrent_kda_gate = fused(
    lambda q, k, v, dt, b, A_log, dt_bias, **s: kda.naive_recurrent_kda(
        q, k, v, naive_kda_gate(dt, A_log, dt_bias), b, scale=1.0, **KEPT, **s),
    gate="dt", **BY_CHANNEL, **HALF, **(F32 | DELTA))
naive_recurrent_kda_lowerbound_gate = fused(
    lambda q, k, v, dt, b, A_log, dt_bias, **s: kda.naive_recurrent_kda(
        q, k, v, naive_kda_lowerbound_gate(dt, A_log, dt_bias, -5.0), b, scale=1.0, **KEPT, **s),
    gate="bounded", lower_bound=-5.0, **BY_CHANNEL, **HALF, **(F32 | DELTA))
naive_chunk_kda = fused(
    lambda q, k, v, g, b, **s: kda.naive_chunk_kda(
        q, k, v, g, b, chunk_size=4, scale=1.0, **KEPT, **s),
    seq_multiple_of=4, **CHUNKS, **BY_CHANNEL, **HALF, **(F32 | DELTA))
naive_forgetting_attn = fused(
    lambda q, k, v, g: forgetting.naive_forgetting_attn(q, k, v, g),
    reads="softmax", scale="K**-0.5", V_equals_K=True, error_scope="prefix", factors="one",
    grad_scope="suffix", **WIDENED, **F32)
naive_retention = fused(
    lambda q, k, v: retention.naive_retention(q, k, v),
    gate="fixed", fixed=lambda NH: torch.log1p(-(2.0 ** (-5.0 - torch.arange(NH).double()))),
    scale="K**-0.5", factors="one", gradient="none", **HALF, **(F32 | {"layout": "BHSD"}))
naive_recurrent_hgrn = fused(
    scan(lambda g, x: hgrn.naive_recurrent_hgrn(x, g)[0]), K=(1,), dtypes=("float32",), max_seq=40)
segsum = fused(log_linear.segsum, error_scope="prefix", **SUMS)

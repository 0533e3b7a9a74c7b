"""fla-core 0.6.0, its Triton kernels: (simple) GLA, gated delta rule, KDA, forgetting attention, retention.

Install: pip install --no-deps fla-core==0.6.0, and einops, triton==3.7.1; `dmat check --interpret` runs
them on the CPU.
Gates are float32, as its layers give them.
"""

import torch
from fla.ops import forgetting_attn, gated_delta_rule, gla, kda, retention, simple_gla

from dmat.testing import fused

FLA = {
    "layout": "BSHD", "dtypes": ("float32", "bfloat16"), "gate_dtype": "float32", "accumulates_in": "float32",
    "multiplies_in": "input", "K": (16,), "V": 16, "packed": "cu_seqlens",
}  # fmt: skip
LENGTHS = {"lengths": (1, 2, 16, 17, 33, 64, 65, 70, 130)}
SHORT = {"lengths": (1, 2, 17, 33)}
CHUNKS = {"error_scope": 64, "factors": 64, "grad_scope": "suffix", **LENGTHS}
PARALLEL = {**CHUNKS, "error_scope": "prefix"}
STEPS = {"grad_scope": "suffix", **SHORT}
DELTA = {"reads": "delta"}
STATES = {"states": "initial_state"}
BY_CHANNEL = {"gates_by": "channel"}
INSIDE = {"use_beta_sigmoid_in_kernel": True}


def going_on(fn):
    """Ask a kernel for its last state."""
    return lambda *tensors, **more: fn(*tensors, output_final_state=True, **more)


# fmt: off

chunk_simple_gla = fused(
    lambda q, k, v, g, **s: going_on(simple_gla.chunk_simple_gla)(q, k, v, g, scale=1.0, **s),
    **STATES, **CHUNKS, **FLA)
fused_chunk_simple_gla = fused(
    lambda q, k, v, g, **s: going_on(simple_gla.fused_chunk_simple_gla)(q, k, v, g, scale=1.0, **s),
    **STATES, **CHUNKS, **FLA)
parallel_simple_gla = fused(
    lambda q, k, v, g, **s: simple_gla.parallel_simple_gla(q, k, v, g, scale=1.0, **s)[0],
    **PARALLEL, **FLA)
fused_recurrent_simple_gla = fused(
    lambda q, k, v, g, **s: going_on(simple_gla.fused_recurrent_simple_gla)(q, k, v, g, scale=1.0, **s),
    **STATES, **STEPS, **FLA)
chunk_gla = fused(
    lambda q, k, v, g, **s: going_on(gla.chunk_gla)(q, k, v, g, scale=1, **s),
    **BY_CHANNEL, **STATES, **CHUNKS, **FLA)
fused_recurrent_gla = fused(
    lambda q, k, v, g, **s: going_on(gla.fused_recurrent_gla)(
        q, k, v, g, scale=1, **s),
    **BY_CHANNEL, **STATES, **STEPS, **FLA)
chunk_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: going_on(gated_delta_rule.chunk_gated_delta_rule)(
        q, k, v, g, b, scale=1.0, **s),
    **STATES, **CHUNKS, **(FLA | DELTA))
chunk_gated_delta_rule_grouped = fused(
    lambda q, k, v, g, b, **s: going_on(gated_delta_rule.chunk_gated_delta_rule)(
        q, k, v, g, b, scale=1.0, use_qk_l2norm_in_kernel=True, **INSIDE, **s),
    group=2, l2norm=1e-6, beta_in="logit", **STATES, **CHUNKS, **(FLA | DELTA))
fused_recurrent_gated_delta_rule = fused(
    lambda q, k, v, g, b, **s: going_on(gated_delta_rule.fused_recurrent_gated_delta_rule)(
        q, k, v, g, beta=b, scale=1.0, **s),
    gradient="none", **STATES, **SHORT, **(FLA | DELTA))
chunk_kda = fused(
    lambda q, k, v, g, b, **s: going_on(kda.chunk_kda)(
        q, k, v, g, b, scale=1.0, **s),
    **BY_CHANNEL, **STATES, **CHUNKS, **(FLA | DELTA))
fused_recurrent_kda = fused(
    lambda q, k, v, g, b, **s: going_on(kda.fused_recurrent_kda)(
        q, k, v, g, b, scale=1.0, **s),
    gradient="none", **BY_CHANNEL, **STATES, **SHORT, **(FLA | DELTA))
parallel_forgetting_attn = fused(
    lambda q, k, v, g, **s: forgetting_attn.parallel_forgetting_attn(q, k, v, g, **s),
    reads="softmax", scale="K**-0.5", V_equals_K=True, **PARALLEL, **FLA)
chunk_retention = fused(
    lambda q, k, v, **s: going_on(retention.chunk_retention)(q, k, v, scale=1.0, **s),
    gate="fixed", fixed=lambda NH: torch.log1p(-(2.0 ** (-5.0 - torch.arange(NH).double()))),
    gradient="none", **STATES, **CHUNKS, **FLA)

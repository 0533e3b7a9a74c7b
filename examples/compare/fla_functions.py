"""Functions of fla-core, to compare under torch.compile and between versions.

dmat compare THIS:eager THIS:compiled                      # THIS is examples/compare/fla_functions.py
dmat compare --old-python other/bin/python THIS:chunk_kda THIS:chunk_kda

Install: pip install --no-deps fla-core==0.6.0, and einops.
"""

import torch
from fla.ops.kda.naive import naive_chunk_kda
from fla.ops.simple_gla.naive import naive_parallel_simple_gla

from dmat.testing import fused

CONTRACT = {
    "layout": "BSHD",
    "max_seq": 40,
    "accumulates_in": "float32",
    "dtypes": ("float32", "bfloat16"),
    "output_dtype": "float32",
    "error_scope": "prefix",
    "factors": "one",
    "grad_scope": "suffix",
}


def simple_gla(q, k, v, g):
    """Return o, by differences of cumulative sums."""
    return naive_parallel_simple_gla(q, k, v, g, scale=1.0)[0]


eager = fused(simple_gla, **CONTRACT)
compiled = fused(torch.compile(simple_gla, dynamic=True), **CONTRACT)
chunk_kda = fused(
    lambda q, k, v, g, b, **s: naive_chunk_kda(
        q, k, v, g, b, chunk_size=4, scale=1.0, output_final_state=True, **s
    ),
    reads="delta",
    gates_by="channel",
    gate_dtype="float32",
    states="initial_state",
    layout="BSHD",
    max_seq=40,
    seq_multiple_of=4,
    accumulates_in="float32",
    dtypes=("float32",),
    error_scope=4,
    factors=4,
    grad_scope="suffix",
)

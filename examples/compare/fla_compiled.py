"""A function of fla-core, eager and under torch.compile, to compare with each other and between versions.

dmat compare THIS:eager THIS:compiled                      # THIS is examples/compare/fla_compiled.py
dmat compare --old-python other/bin/python THIS:eager THIS:eager

Install: pip install --no-deps fla-core==0.6.0, and einops.
"""

import torch
from fla.ops.simple_gla.naive import naive_chunk_simple_gla

from dmat.testing import fused

C = 4
CONTRACT = {
    "layout": "BSHD",
    "max_seq": 40,
    "accumulates_in": "float32",
    "dtypes": ("float32", "bfloat16"),
    "output_dtype": "float32",
    "error_scope": C,
    "factors": C,
    "grad_scope": "suffix",
}


def chunk_simple_gla(q, k, v, g):
    """Return o of chunks of C."""
    return naive_chunk_simple_gla(q, k, v, g, chunk_size=C, scale=1.0)[0]


eager = fused(chunk_simple_gla, **CONTRACT)
compiled = fused(torch.compile(chunk_simple_gla, dynamic=True), **CONTRACT)

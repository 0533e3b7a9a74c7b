"""mambax 0.4.1: Mamba-2's segment sum and SSD.

Install: pip install --no-deps mambax==0.4.1, and einops. Chunks are 4 long, an argument of theirs.
"""

from mambax import mamba2

from dmat.testing import fused

SUMS = {"reads": "log", "dtypes": ("float32", "bfloat16"), "accumulates_in": {"bfloat16": "bfloat16"}}

# fmt: off

segsum = fused(mamba2.segsum, **SUMS)
ssd = fused(
    lambda q, k, v, g: mamba2.ssd(v, g, k, q, chunk_size=4)[0], layout="BSHD", dtypes=("float32",),
    error_scope=4, factors=4, grad_scope="suffix", seq_multiple_of=4, max_seq=24)

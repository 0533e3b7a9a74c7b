"""yet-another-retnet 0.5.1: retention in parallel, in chunks, step by step.

Install: pip install --no-deps yet-another-retnet==0.5.1, and einops. The decays are those that it builds,
in float32; `..._as_defined` asks for those of the paper instead.
"""

import math

import torch
from around import in_chunks
from yet_another_retnet import retention

from dmat.testing import fused


def built(NH):
    """Return the log decays that it builds; its cache knows no copies."""
    retention._build_decay_gammas.cache_clear()
    return retention._build_decay_gammas(num_heads=NH, device=None, dtype=torch.float32).double().log()


def defined(NH):
    """Return the log decays of the paper's equation: 1 - 2^-5 to 1 - 2^-9 in even steps of the exponent."""
    return (1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), NH).double().exp()).log()


def steps(q, k, v, state):
    """Call its recurrent form on one time."""
    o, state = retention.retention_recurrent(q[:, :, 0], k[:, :, 0], v[:, :, 0], state)
    return o[:, :, None], state


FIXED = {"gate": "fixed", "scale": "K**-0.5", "dtypes": ("float32",), "gradient": "none", "max_seq": 40}

# fmt: off

retention_parallel = fused(
    lambda q, k, v: retention.retention_parallel(q, k, v)[0], fixed=built, factors="one", **FIXED)
retention_parallel_as_defined = fused(
    lambda q, k, v: retention.retention_parallel(q, k, v)[0], fixed=defined, factors="steps", **FIXED)
retention_chunkwise = fused(
    in_chunks(retention.retention_chunkwise, 4), fixed=built, factors=4, states="state", **FIXED)
retention_recurrent = fused(in_chunks(steps, 1), fixed=built, states="state", **FIXED)

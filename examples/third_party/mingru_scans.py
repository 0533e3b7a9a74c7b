"""minGRU-scans 0.2.0: its scans in log space and in linear space.

Install: pip install --no-deps mingru-scans==0.2.0.
"""

import torch
from around import log, scan
from mingru import min_gru

from dmat.testing import fused


def from_nothing(x):
    """Return log values behind that of a first state of 0."""
    return torch.cat([torch.full_like(x[:, :1], -300.0), log(x)], dim=1)


# fmt: off

parallel_scan_log = fused(
    scan(lambda g, x: min_gru.parallel_scan_log(g, from_nothing(x))), K=(1,), dtypes=("float32",), max_seq=40,
    error_scope="prefix", factors="one", grad_scope="suffix", positive=True, homogeneous=False)
linear_scan = fused(
    scan(lambda g, x: min_gru.linear_scan(g.exp(), x)[1]), K=(1,), dtypes=("float32",), max_seq=40)

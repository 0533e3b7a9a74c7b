"""minGRU-pytorch 0.2.1: its scan in log space.

Install: pip install --no-deps minGRU-pytorch==0.2.1.
"""

from around import log, scan
from minGRU_pytorch.minGRU import heinsen_associative_scan_log as of_mingru

from dmat.testing import fused

# fmt: off

heinsen_associative_scan_log = fused(
    scan(lambda g, x: of_mingru(g, log(x))), K=(1,), dtypes=("float32",), max_seq=40, error_scope="prefix",
    factors="one", grad_scope="suffix", positive=True, homogeneous=False)

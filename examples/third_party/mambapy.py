"""mambapy 1.2.0: the parallel scan of its Mamba, with a backward of its own.

Install: pip install --no-deps mambapy==1.2.0.
"""

from around import scan
from mambapy.pscan import pscan as of_mambapy

from dmat.testing import fused

# fmt: off

pscan = fused(
    scan(lambda g, x: of_mambapy(g.exp()[..., None], x[..., None])[..., 0]), K=(1,),
    dtypes=("float32",), max_seq=40)

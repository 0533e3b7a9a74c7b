"""Lets mamba-ssm be imported where its CUDA extension was not built: nothing here calls that."""

import sys
import types
from importlib.util import find_spec


def stand_in():
    """Put an empty module in the place of the extension, where there is none."""
    if "selective_scan_cuda" not in sys.modules and find_spec("selective_scan_cuda") is None:
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")

"""The contract of a fused kernel, where it was: it stands in dmat/testing/contract/fused.py."""

from dmat.testing.contract import TF32 as TF32
from dmat.testing.contract import FusedContract as FusedContract

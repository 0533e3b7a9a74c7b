"""The contract: what an implementation promises, one field for each promise (docs/spec.md section 6).

A bare function promises the strictest default of every field. `@implementation(...)` states other values.
"""

from dmat.testing.contract.attached import AnyContract, contract_of, implementation
from dmat.testing.contract.dtilde import Contract
from dmat.testing.contract.fused import FusedContract
from dmat.testing.contract.names import (
    DTILDE,
    DTYPES,
    FUSED,
    OPERANDS_OF_FLOAT32,
    SPECIAL_VALUES,
    TF32,
    TRANSFORMS,
)
from dmat.testing.contract.rows import relaxations, rows

__all__ = [
    "DTILDE",
    "DTYPES",
    "FUSED",
    "OPERANDS_OF_FLOAT32",
    "SPECIAL_VALUES",
    "TF32",
    "TRANSFORMS",
    "AnyContract",
    "Contract",
    "FusedContract",
    "contract_of",
    "implementation",
    "relaxations",
    "rows",
]

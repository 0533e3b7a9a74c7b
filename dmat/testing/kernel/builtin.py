"""The implementations that dmat ships, and the contract of each."""

from __future__ import annotations

from dmat.operator import dtilde, vlstm_fwbw_Dtildemat
from dmat.reference import masked_cumulative_sum, vlstm_fw_Dtildemat
from dmat.testing.contract import TRANSFORMS, Contract
from dmat.testing.kernel.implementation import Implementation

BUILTIN = (
    Implementation("dtilde", dtilde, Contract(accumulates_in="float64", transforms=TRANSFORMS)),
    Implementation(
        "vlstm_fwbw_Dtildemat",
        vlstm_fwbw_Dtildemat,
        Contract(accumulates_in="float64", masked_cotangent="summed"),
    ),
    Implementation(  # adds -inf to masked entries, and subtracts cumulative sums
        "vlstm_fw_Dtildemat",
        vlstm_fw_Dtildemat,
        Contract(error_scope="prefix", masked_cotangent="summed", special_values=("-inf",)),
    ),
)

# The implementations that `dmat grade` compares: the operator, and the two ways to write the formula.
COMPARED = (
    BUILTIN[0],
    BUILTIN[2],
    Implementation("masked_cumulative_sum", masked_cumulative_sum, Contract()),
)

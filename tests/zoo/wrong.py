"""Every wrong fused kernel of the zoo. Importing a file registers its mutants in FUSED_MUTANTS."""

from __future__ import annotations

from . import (  # noqa: F401  # each registers its mutants
    channel_mutants,
    delta_mutants,
    gate_mutants,
    half_mutants,
    mamba_mutants,
    mask_mutants,
    size_kernels,
    state_mutants,
)
from .fused_mutants import FUSED_MUTANTS as FUSED_MUTANTS

"""The names of the kernels of triton_mutants.py, for processes that do not load Triton.

MUTANTS: the promise that each one breaks. SOUND: kernels that must not be accused.
"""

from __future__ import annotations

MUTANTS = {
    "tf32_stated_float32": "multiplies_in",
    "tf32_by_default": "multiplies_in",
    "tf32_in_the_last_product": "multiplies_in",
    "bfloat16_operands": "multiplies_in",
    "float16_operands": "multiplies_in",
    "summed_in_float16": "accumulates_in",
    "atomics_in_any_order": "deterministic",
    "too_large": "compiles",
    "no_configuration_fits": "compiles",
    "unknown_format": "compiles",
    "too_many_threads": "compiles",
}
SOUND = (
    "ieee",
    "tf32x3",
    "split_by_hand",
    "split_into_bfloat16",
    "tf32_as_stated",
    "tf32_not_stated",
    "widened",
    "one_configuration_fits",
    "atomics_of_one_program",
    "atomics_not_promised",
)

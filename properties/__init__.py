"""The laws that every D~ implementation and every fused kernel must keep: one file for each family of laws.

Each test states one law. The order of the families below, and of the laws in a file, is the order of reports
and of `--first`: the laws that reject most wrong kernels stand first. A file test_law_FAMILY.py that is not
listed here is an error. A law of both kinds stands in the family of D~. Two laws of the same name, one for
each kind, have alike statements.
"""

FUSED_FAMILIES = ("fused_values", "fused_gradient", "fused_locality", "fused_conduct")
FAMILIES = ("values", "gradient", "structure", "locality", "conduct", "derivative", "transforms", "cuda")

"""The laws that every D~ implementation and every fused kernel must keep: one file for each family of laws.

Each test states one law. Reports show the families in the order below; a file test_law_FAMILY.py that is not
listed here is an error. A law of both kinds stands in the family of D~. Two laws of the same name, one for
each kind, have alike statements.
"""

FUSED_FAMILIES = ("fused_structure", "fused_values", "fused_locality", "fused_gradient", "fused_conduct")
FAMILIES = ("structure", "locality", "values", "gradient", "derivative", "conduct", "transforms", "cuda")

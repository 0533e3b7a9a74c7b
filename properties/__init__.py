"""What every implementation must keep, of D~ or of a fused kernel: one file a family of laws, one test a law.

Reports show the families in this order; a file test_law_FAMILY.py that is not named here is an error. A law
of both kinds stands in the family of D~. Of a name that both have, the statements are alike.
"""

FUSED_FAMILIES = ("fused_structure", "fused_values", "fused_locality", "fused_gradient", "fused_conduct")
FAMILIES = ("structure", "locality", "values", "gradient", "derivative", "conduct", "transforms", "cuda")

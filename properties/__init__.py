"""What every implementation of D~ must keep: one file a family of laws, one test a law.

Reports show the families in this order; a file test_law_FAMILY.py that is not named here is an error.
"""

FAMILIES = ("structure", "locality", "values", "gradient", "derivative", "conduct", "transforms", "cuda")

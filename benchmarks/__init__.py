"""How fast and how accurate the operator is, beside the formulas and the floors: `python -m benchmarks`."""

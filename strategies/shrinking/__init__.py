"""Which cases are smaller? The order of cases, and two ways to propose smaller ones."""

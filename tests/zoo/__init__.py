"""The zoo: implementations of D~ and fused kernels that are right, and mutants with one known bug each."""

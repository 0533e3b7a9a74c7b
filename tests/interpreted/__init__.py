"""Triton kernels of D~ as one would write them, right and wrong: targets of `dmat check --interpret`."""

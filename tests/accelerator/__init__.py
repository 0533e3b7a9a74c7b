"""A simulated accelerator, and kernels for it. For tests only."""

"""The gate for programs: a frozen contract, and the kernel in a process of its own."""

"""`dmat init`: the adapter of a function, and its contract as calls show it, written to a file."""

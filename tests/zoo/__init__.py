"""The bug zoo: implementations of D~ that are right, and ones that are wrong in a known way."""

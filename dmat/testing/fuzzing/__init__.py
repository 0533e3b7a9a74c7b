"""Fuzzing for hours, and the report of it."""

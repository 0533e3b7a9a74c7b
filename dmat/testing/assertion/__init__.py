"""The bounds as an assertion on a user's own tensors, and what a test with a tolerance does not see."""

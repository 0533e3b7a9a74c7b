"""What is a case made of? Frozen recipes; the repr of a recipe evaluates to an equal recipe."""

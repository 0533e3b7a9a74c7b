"""What is a case made of? Frozen recipes, whose repr evaluates to an equal one."""

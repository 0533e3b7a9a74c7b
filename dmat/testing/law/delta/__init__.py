"""What the laws see of a delta rule: its calls, its expected values, its exact regime."""

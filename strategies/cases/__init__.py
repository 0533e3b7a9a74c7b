"""Which cases is a law tried on? For each kind of case: its draw, its canonical cases, its domain test."""

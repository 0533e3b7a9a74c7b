"""Which cases is a law tried on? How each kind is drawn, its canonical cases, and what lies inside."""

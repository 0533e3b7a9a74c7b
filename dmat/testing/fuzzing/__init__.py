"""`dmat fuzz`: try every law repeatedly on new cases, for a given time."""

"""`dmat fuzz`: every law, again and again, on cases that nobody has tried, for as long as it is given."""

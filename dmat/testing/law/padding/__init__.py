"""The law of padding masks: the calls that it makes, and what it requires of them."""

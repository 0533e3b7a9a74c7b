"""How is a kernel checked from Python, and in one's own test suite?"""

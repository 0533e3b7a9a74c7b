"""What does a broken law look like?"""

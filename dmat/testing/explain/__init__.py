"""What is said of a broken law?"""

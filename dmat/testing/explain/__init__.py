"""What does dmat say about a broken law?"""

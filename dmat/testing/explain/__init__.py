"""What does dmat say of a broken law?"""

"""What are the true results of a kernel?"""

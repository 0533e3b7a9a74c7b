"""What is a law, and what does a law see of a kernel?"""

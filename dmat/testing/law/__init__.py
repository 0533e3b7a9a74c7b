"""What is a law, and what does it see of a kernel?"""

"""What is kept of a broken law, and how is it tried again?"""

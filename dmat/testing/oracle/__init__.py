"""What is true?"""

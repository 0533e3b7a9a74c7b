"""What does dmat keep of a broken law, and how is it tried again?"""

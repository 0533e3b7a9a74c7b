"""What does dmat keep of a broken law, and how does it replay it?"""

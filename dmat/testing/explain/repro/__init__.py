"""Which script shows a broken law without dmat?"""

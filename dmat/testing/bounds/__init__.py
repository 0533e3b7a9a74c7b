"""How far may rounding take a result from the true one?"""

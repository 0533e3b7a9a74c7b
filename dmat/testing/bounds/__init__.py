"""How far may rounding go?"""

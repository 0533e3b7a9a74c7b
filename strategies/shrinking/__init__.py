"""Which cases are smaller?"""

"""Is an array right or wrong?"""

"""`dmat compare`: how far apart are the results of two kernels, and is the new one worse than the old one?"""

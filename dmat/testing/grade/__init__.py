"""`dmat grade`: how accurate is a kernel, and what does it keep beyond the laws?"""

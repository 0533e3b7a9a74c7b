"""`dmat check` of a kernel that fell: which wider contract admits it?"""

"""Which failures of a kernel have one cause, what is that cause, and what is the mildest case of it?"""

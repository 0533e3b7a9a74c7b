"""`dmat check`: does a kernel keep every law that its contract implies?"""

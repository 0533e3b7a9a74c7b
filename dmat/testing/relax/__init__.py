"""After `dmat check` has found a broken kernel: which wider contract admits it?"""

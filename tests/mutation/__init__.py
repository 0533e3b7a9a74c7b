"""Machine-made mutants of dmat's operator and of sound kernels: does some law reject each?"""

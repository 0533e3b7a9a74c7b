"""How do Triton kernels run on CPU tensors, in Triton's interpreter, mended?"""

"""How do Triton kernels run on CPU tensors? In Triton's interpreter, which this folder patches."""

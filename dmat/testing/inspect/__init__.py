"""What a device will do with the Triton kernels of a TARGET, read without the device: `dmat inspect`."""

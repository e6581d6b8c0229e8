"""All that touches torch's private parts: compiled gradients, kept code, kernels, CUDA graphs."""

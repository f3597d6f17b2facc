"""The inner loops: Triton kernels beside their PyTorch twins, and what PyTorch itself does slowly on a CPU.

Nothing here imports more than torch and triton. Each function is exact in fp32, whichever way it takes.
"""

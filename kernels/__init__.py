"""Kernels of c2fcore, compute only: one file per op in each of triton/, cuda/ and cpu/."""

"""Benchmarks of the kernels: one file of cases a kernel."""

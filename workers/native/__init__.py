"""Compiled kernels: one C++ source, built by the pip package `ziglang`, loaded through ctypes."""

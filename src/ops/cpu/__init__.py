"""The CPU kernels: C++ sources, how they are built, and how they are loaded."""

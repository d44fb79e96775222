"""A door to the C face of rings and doorbells, for tests and the micro-benchmark.

Nothing in it is for other modules: the functions are called from Python.
"""

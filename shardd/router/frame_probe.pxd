"""A door to the C face of ring records, for tests and the fuzz target.

Nothing in it is for other modules: the functions are called from Python.
"""

"""A door to the C face of channel logs, for tests and benchmarks: nothing for other modules."""

"""A door to the C face of a bus, for tests: nothing of it is of use to others."""

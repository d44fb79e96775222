"""Results of matching, cached: Cython users only, nothing for Python."""

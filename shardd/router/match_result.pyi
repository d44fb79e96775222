"""One result from several patterns: Cython users only, nothing for Python."""

"""Patterns and queue groups of an index: Cython users only, nothing for Python."""

"""Wildcard patterns by token: Cython users only, nothing for Python."""

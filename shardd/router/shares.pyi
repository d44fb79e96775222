"""Who the members of a sticky group are: Cython users only, nothing for Python."""

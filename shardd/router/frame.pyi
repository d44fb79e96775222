"""Messages as records of a ring. Cython only: nothing here has a Python face."""

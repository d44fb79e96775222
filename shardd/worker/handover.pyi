"""An accepted connection travels to another worker. Cython only: nothing here has a Python face."""

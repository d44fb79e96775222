"""The C face of the loop that counts what arrives: it has none."""

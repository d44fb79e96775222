"""The C face of the loops of request and reply: it has none."""

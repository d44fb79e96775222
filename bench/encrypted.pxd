"""The loops over TLS: nothing of theirs is for other modules."""

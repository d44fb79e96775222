"""What the operator asked for: the configuration's syntax, its keys, and the object they make."""

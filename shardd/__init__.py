"""shardd: a NATS server that spreads over every core of a host."""

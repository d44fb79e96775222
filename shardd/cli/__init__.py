"""The command line: nats-server flags, and the small client commands."""

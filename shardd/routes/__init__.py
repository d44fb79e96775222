"""The router process: routes to other hosts, by nats-server's own route protocol."""

"""Making load for any NATS server, and measuring what comes of it: what `shardd bench` runs on."""

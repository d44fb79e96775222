"""The benchmark: shardd against nats-server, the same loads in the same run, in turn."""

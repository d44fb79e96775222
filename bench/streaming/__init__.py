"""NATS Streaming: shardd beside nats-streaming-server, with the Go client's own stan-bench."""

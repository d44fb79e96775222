"""NATS Streaming: the streaming worker pool and its client."""

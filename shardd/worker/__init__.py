"""What a client connection needs, on one core."""

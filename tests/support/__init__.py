"""The harness: real servers, a raw client, waiting without sleeping, and the hunt for leaks."""

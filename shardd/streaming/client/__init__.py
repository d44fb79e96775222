"""The Python client of NATS Streaming, on nats-py: for any server, shardd or the original.

`connection.connect` is where one begins; `docs/streaming-client.md` shows how.
"""

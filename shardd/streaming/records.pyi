"""Records of messages in a segment file. Everything here is called from C."""

RECORD_SIZE: int

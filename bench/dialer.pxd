"""The C face of the dialer: what it keeps of a connection being opened."""

# How far a connection has come.
cdef enum Stage:
    STAGE_CONNECTING = 0
    STAGE_INFO = 1
    STAGE_PONG = 2
    STAGE_OPEN = 3

# One connection being opened.
cdef struct Dialer:
    int fd
    int stage
    size_t held
    unsigned char tail[64]

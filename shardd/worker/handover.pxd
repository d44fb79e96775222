"""An accepted connection travels to another worker: the C face."""

cdef bint send_connection(int outlet, int fd, int door) noexcept
cdef int receive_connection(int inlet, int* door) noexcept

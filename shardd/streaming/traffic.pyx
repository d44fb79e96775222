# cython: language_level=3str
"""What the channels and subscriptions of one streaming worker share while messages pass.

The clock of the pass, the way out, and three lists of what has to be looked at when the pass ends:
channels that may deliver, subscriptions whose position changed, and subscriptions that have
something in flight and no timer. Whoever notices, appends; the server works them off.
"""

cimport cython


@cython.final
cdef class Traffic:
    """One for each streaming worker."""

    def __init__(self, Bus bus not None) -> None:
        self.bus = bus
        self.ready = []
        self.moved = []
        self.armed = []
        self.deliveries_max = 1024

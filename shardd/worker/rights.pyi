"""What a client's user may do: the Python face."""

from shardd.worker.receiver import Receiver

class Rights(Receiver): ...

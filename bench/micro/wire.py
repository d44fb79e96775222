"""What one PUB costs in the parser, by size of its payload: `python -m bench.micro.wire`.

The buffer is about as large as what one read hands in, so the bytes come from a near cache, as
they do behind a socket. Printed is the best of several rounds: the rest is the machine's noise.
"""

import time
from typing import Final

from shardd.wire import parse_repeatedly

PAYLOAD_SIZES: Final = (16, 128, 1024)
BUFFER_BYTES: Final = 131_072
OPERATIONS: Final = 1_000_000
ROUNDS: Final = 5

HEADER: Final = b"NATS/1.0\r\n\r\n"


def messages(size: int) -> dict[str, bytes]:
    """The same payload published in different ways."""
    payload = b"x" * size
    inbox = b"_INBOX.Zk3q0bJ7Yc2mD5vW8nR1xT.4Hs9Lp6"
    total = len(HEADER) + size
    return {
        "PUB": b"PUB bench.subject %d\r\n%b\r\n" % (size, payload),
        "PUB with reply": b"PUB bench.subject %b %d\r\n%b\r\n" % (inbox, size, payload),
        "PUB, odd blanks": b"PUB bench.subject  %d\r\n%b\r\n" % (size, payload),
        "HPUB": b"HPUB bench.subject %d %d\r\n%b%b\r\n" % (len(HEADER), total, HEADER, payload),
    }


def nanoseconds(message: bytes) -> float:
    """Best time for one message, in a buffer full of them."""
    data = message * max(BUFFER_BYTES // len(message), 1)
    repeats = max(OPERATIONS * len(message) // len(data), 1)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        count = parse_repeatedly(data, repeats)
        best = min(best, (time.perf_counter_ns() - start) / count)
    return best


def main() -> None:
    """Prints one line per size and shape."""
    for size in PAYLOAD_SIZES:
        for name, message in messages(size).items():
            print(f"{name:16} {size:5} B  {nanoseconds(message):6.1f} ns")


if __name__ == "__main__":
    main()

"""Fuzzing the reader of configuration files: any text is read, or refused with one line that says
where.

The seeds are the files that are tried beside nats-server. Nothing is included and no variable is
taken from the environment, but for what stands here. How to run it stands in `runner.py`.
"""

import random
from typing import Final

from shardd.config.load import load_tree
from shardd.config.syntax import parse
from shardd.errors import ConfigError
from tests.fuzz import runner

CORPUS: Final = runner.CORPORA.parents[1] / "conformance" / "config_corpus"
INPUT_BYTES_MAX: Final = 4096

PIECES: Final = (
    *(b"{", b"}", b"[", b"]", b"(", b")", b":", b"=", b",", b";", b"\n", b" ", b"\t", b"#"),
    *(
        b'"',
        b"'",
        b"\\",
        b"include 'x'",
        b"include 'loop'",
        b"$T",
        b"$2a$",
        b"$self",
        b"self: $self",
    ),
    *(
        b"1",
        b"-1",
        b"1.5",
        b"10k",
        b"2kb",
        b"true",
        b"no",
        b"9" * 30,
        b"1e400",
        b"1h",
        b"2s",
        b"\x00",
    ),
    *(
        b"port: 1",
        b"users: [ ",
        b"accounts { A { ",
        b"cluster { ",
        b"tls { ",
        b"exports: [ {stream: ",
    ),
    *(b"[" * 200, b"{a " * 100, b"\xff", "\u00e9".encode(), b"\\x41", b"mappings { a: "),
)
_FILES: Final = {"x": "port: 4222\n", "loop": "include 'loop'\n"}


def read_file(path: str) -> str:
    """What an include finds."""
    name = path.rpartition("/")[2]
    if name not in _FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return _FILES[name]


def check(data: bytes) -> bool:
    """Whether it is a configuration; raises AssertionError unless it is read, or refused in one
    line."""
    text = data[:INPUT_BYTES_MAX].decode("utf-8", "replace")
    try:
        section = parse(text, "fuzz.conf", environment={"T": "word"}, read=read_file)
        load_tree(section).config.validate()
    except ConfigError as error:
        line = str(error)
        assert line, f"{text!r}: refused without a word"
        assert "\n" not in line.strip(), f"{text!r}: refused with more than one line: {line!r}"
        return False
    return True


def mutate(seeds: list[bytes], rng: random.Random) -> bytes:
    """One file, changed here and there."""
    return runner.mutate(seeds, PIECES, INPUT_BYTES_MAX, rng)


TARGET: Final = runner.Target("fuzz the reader of configuration files", CORPUS, check, mutate)

if __name__ == "__main__":
    TARGET.main()

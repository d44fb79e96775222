"""nats-server's configuration grammar (sheet 13.1): text to a tree of values that know their place.

One reader goes over the text once, from left to right. It knows maps, arrays, strings in four
notations, numbers with suffixes, booleans, dates, variables and includes, and no key's name. What
it refuses is a ConfigError with file, line and column, and never repeats a value: it may be a
password. No IO: included files are read by a function that is handed in.
"""

import os.path
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from shardd.config.tree import Entry, Place, Section, Value
from shardd.errors import ConfigError
from shardd.values import parse_boolean, parse_size

_DEPTH_MAX: Final = 200  # maps and arrays inside each other; precedent: common JSON readers
_INCLUDES_MAX: Final = 20  # files inside each other

_BLANKS: Final = " \t\r"
_TERMINATORS: Final = frozenset(" \t\r\n,;]}")
_KEY_ENDS: Final = frozenset(" \t\r\n=:")
_INTEGER: Final = re.compile(r"-?[0-9]+", re.ASCII)
_SUFFIXED: Final = re.compile(r"-?[0-9]+[kmgtpe](?:ib?|b)?", re.ASCII | re.IGNORECASE)
_FLOAT: Final = re.compile(r"-?[0-9]+\.[0-9]+", re.ASCII)
_BAD_FLOAT: Final = re.compile(r"-?[0-9]+\.(?:[0-9]+[kmgtpe](?:ib?|b)?)?", re.ASCII | re.IGNORECASE)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_INTEGER_BITS: Final = 63
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", '"': '"', "\\": "\\"}
_BCRYPT_MARK: Final = "2a$"  # what a bare bcrypt hash has behind its first dollar


def parse(
    text: str, file: str, *, environment: Mapping[str, str], read: Callable[[str], str]
) -> Section:
    """The tree of a configuration.

    Args:
        text: of the file.
        file: its name, for messages, and for what includes are relative to.
        environment: where a variable is looked up that the text does not define.
        read: gives the text of an included file; raises OSError.

    Raises:
        ConfigError: "file:line:column: message".
    """
    return _Reader(text, file, environment, read, [], 0).document()


class _Reader:
    """Reads one text. `scopes` are the maps around it, outermost first."""

    def __init__(
        self,
        text: str,
        file: str,
        environment: Mapping[str, str],
        read: Callable[[str], str],
        scopes: list[Section],
        includes: int,
    ) -> None:
        self._text = text
        self._file = file
        self._environment = environment
        self._read = read
        self._scopes = scopes
        self._includes = includes
        self._at = 0
        self._line = 1
        self._line_start = 0  # where the last newline is; as nats-server counts columns
        self._counted = 0  # up to where newlines were counted

    # --- the text ------------------------------------------------------------------------------

    def document(self) -> Section:
        """All of it: entries, or one map or JSON object around them."""
        section = Section(Place(self._file, 1, 0))
        self._skip_space()
        if self._peek() == "{":
            self._at += 1
            self._map_body(section, "}")
            self._skip_space()
            if self._at < len(self._text):
                raise self._error(f"unexpected {self._found()} behind the closing brace")
        else:
            self._map_body(section, "")
        return section

    def include_into(self, section: Section) -> None:
        """The entries of an included text go into a map that is being read."""
        self._skip_space()
        self._map_body(section, "", is_scope=False)

    def value_alone(self) -> Value:
        """A text that is one value: what a variable of the environment holds."""
        self._skip_blanks()
        value = self._value(0)
        self._skip_space()
        if self._at < len(self._text):
            raise self._error("a variable of the environment has to be one value")
        return value

    def _map_body(self, section: Section, end: str, depth: int = 0, is_scope: bool = True) -> None:
        """Entries up to the closing brace, or to the end of the text."""
        if depth > _DEPTH_MAX:
            raise self._error("maps and arrays are nested too deep")
        if is_scope:
            self._scopes.append(section)
        while True:
            self._skip_space()
            character = self._peek()
            if character == "":
                if end:
                    raise self._error("Unexpected EOF processing map.")
                break
            if character == "}":
                self._at += 1
                if end:
                    break
                # At the top a brace too many is let pass, as by nats-server.
                continue
            self._entry(section, depth)
            self._end_of_entry(end)
        if is_scope:
            self._scopes.pop()

    def _entry(self, section: Section, depth: int) -> None:
        """One key and its value, or an include."""
        place = self._place()
        key = self._key()
        self._skip_blanks()
        if key == "include" and self._peek() not in ("=", ":"):
            self._include(section)
            return
        has_separator = self._peek() in ("=", ":") and self._peek() != ""
        if has_separator:
            self._at += 1
            self._skip_blanks()
        elif self._peek() in ("\n", "#") or self._text.startswith("//", self._at):
            self._skip_space()
        if has_separator and self._peek() == "\n":
            self._at += 1
            raise self._error("Expected value but found new line")
        value = self._value(depth)
        # Last wins, and stands where the last one stands.
        section.entries.pop(key.lower(), None)
        section.entries[key.lower()] = Entry(key, value, place)

    def _key(self) -> str:
        character = self._peek()
        if character == '"':
            return self._quoted()
        if character == "'":
            return self._raw()
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in _KEY_ENDS:
            self._at += 1
        if self._at == start:
            raise self._error(f"Expected a key but found {self._found()}")
        return self._text[start : self._at]

    def _end_of_entry(self, end: str) -> None:
        """What has to stand between two entries: a newline, a comma, a semicolon, a comment."""
        self._skip_blanks()
        character = self._peek()
        if character in ("", "\n", "}", "#") or self._text.startswith("//", self._at):
            return
        if character in (",", ";"):
            self._at += 1
            return
        what = 'a "," or "}"' if end else "a new line, comment or EOF"
        raise self._error(f"Expected the value to end with {what}, but got {self._found()}")

    def _include(self, section: Section) -> None:
        place = self._place()
        if self._peek() == '"':
            name = self._quoted()
        elif self._peek() == "'":
            name = self._raw()
        else:
            name = self._bare()
        if self._includes >= _INCLUDES_MAX:
            raise place.error("files include each other too deep")
        path = os.path.join(os.path.dirname(self._file), name)
        try:
            text = self._read(path)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise place.error(
                f"error parsing include file '{name}', open {path}: {reason}"
            ) from None
        except UnicodeDecodeError:
            raise place.error(f"include file '{name}' is not UTF-8") from None
        _Reader(
            text, path, self._environment, self._read, self._scopes, self._includes + 1
        ).include_into(section)

    # --- values --------------------------------------------------------------------------------

    def _value(self, depth: int) -> Value:
        place = self._place()
        character = self._peek()
        if character == "{":
            self._at += 1
            section = Section(place)
            self._map_body(section, "}", depth + 1)
            return Value(section, place)
        if character == "[":
            return Value(self._array(depth + 1), place)
        if character == '"':
            return Value(self._quoted(), place)
        if character == "'":
            return Value(self._raw(), place)
        if character == "(":
            return Value(self._block(), place)
        if character == ".":
            raise self._error("Floats must start with a digit")
        if character == "":
            raise self._error("Unexpected EOF.")
        word = self._bare()
        if not word:
            raise self._error(f"Expected a value but found {self._found()}")
        if word.startswith("$") and not word.startswith(_BCRYPT_MARK, 1):
            return self._variable(word[1:], place)
        return self._scalar(word, place)

    def _array(self, depth: int) -> list[Value]:
        if depth > _DEPTH_MAX:
            raise self._error("maps and arrays are nested too deep")
        self._at += 1
        values: list[Value] = []
        while True:
            self._skip_space(",")
            if self._peek() == "]":
                self._at += 1
                return values
            if self._peek() == "":
                raise self._error("Unexpected EOF processing array.")
            values.append(self._value(depth))
            self._skip_blanks()
            character = self._peek()
            if character not in (",", "]", "\n", "#", "") and not self._text.startswith(
                "//", self._at
            ):
                raise self._error(
                    'Expected an array value terminator "," or an array terminator "]",'
                    f" but got {self._found()}"
                )

    def _scalar(self, word: str, place: Place) -> Value:
        """What a bare word is: a number, a boolean, a date, or itself."""
        if _INTEGER.fullmatch(word):
            number = int(word) if len(word) < 24 else 1 << 64
            if not -(1 << _INTEGER_BITS) <= number < 1 << _INTEGER_BITS:
                raise place.error("the integer is out of the range")
            return Value(number, place)
        if _SUFFIXED.fullmatch(word):
            try:
                return Value(parse_size(word), place, suffixed=word)
            except ValueError:
                raise place.error("the integer is out of the range") from None
        if _FLOAT.fullmatch(word):
            return Value(float(word), place)
        if _BAD_FLOAT.fullmatch(word):
            raise place.error("a number with a decimal point takes no suffix and ends in a digit")
        if word.startswith("-") and not word[1:2].isdigit():
            raise place.error("Expected a digit behind the minus sign")
        if _DATE.fullmatch(word):
            try:
                return Value(
                    datetime.strptime(word, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC), place
                )
            except ValueError:
                raise place.error("the date does not exist") from None
        try:
            return Value(parse_boolean(word), place)
        except ValueError:
            return Value(word, place)

    def _variable(self, name: str, place: Place) -> Value:
        """What was defined before under this name, nearest map first, else in the environment."""
        for scope in reversed(self._scopes):
            entry = scope.entries.get(name.lower())
            if entry is not None and entry.key == name:
                entry.is_variable = True
                return Value(entry.value.value, place, entry.value.suffixed)
        text = self._environment.get(name)
        if text is None or self._includes >= _INCLUDES_MAX:
            raise place.error(f"variable reference for '{name}' can not be found")
        try:
            value = _Reader(
                text, place.file, self._environment, self._read, [], self._includes + 1
            ).value_alone()
        except ConfigError:
            raise place.error(f"variable '{name}' of the environment is not a value") from None
        return Value(value.value, place, value.suffixed)

    def _bare(self) -> str:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] not in _TERMINATORS:
            self._at += 1
        return self._text[start : self._at]

    def _quoted(self) -> str:
        """A string in double quotes, with escapes."""
        parts: list[str] = []
        self._at += 1
        while True:
            character = self._peek()
            self._at += 1
            if character == "":
                raise self._error("Unexpected EOF.")
            if character == '"':
                return "".join(parts)
            parts.append(self._escape() if character == "\\" else character)

    def _escape(self) -> str:
        character = self._peek()
        self._at += 1
        if character in _ESCAPES and character:
            return _ESCAPES[character]
        if character == "x":
            digits = self._text[self._at : self._at + 2]
            if re.fullmatch(r"[0-9A-Fa-f]{2}", digits):
                self._at += 2
                return chr(int(digits, 16))
        raise self._error(
            "Invalid escape character. Only the following escape characters are allowed:"
            ' \\xXX, \\t, \\n, \\r, \\", \\\\.'
        )

    def _raw(self) -> str:
        """A string in single quotes, as it stands."""
        end = self._text.find("'", self._at + 1)
        if end < 0:
            self._at = len(self._text)
            raise self._error("Unexpected EOF.")
        text = self._text[self._at + 1 : end]
        self._at = end + 1
        return text

    def _block(self) -> str:
        """Lines between a parenthesis and one that has a line of its own."""
        found = re.compile(r"^[ \t]*\)[ \t\r]*$", re.MULTILINE).search(self._text, self._at + 1)
        if found is None:
            self._at = len(self._text)
            raise self._error("Unexpected EOF processing block.")
        text = self._text[self._at + 1 : found.start()]
        self._at = found.end()
        return text.removeprefix("\n")

    # --- characters ----------------------------------------------------------------------------

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _skip_blanks(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in _BLANKS:
            self._at += 1

    def _skip_space(self, more: str = "") -> None:
        """Blanks, newlines and comments."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in _BLANKS or character == "\n" or character in more:
                self._at += 1
            elif character == "#" or self._text.startswith("//", self._at):
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            else:
                return

    def _place(self) -> Place:
        newlines = self._text.count("\n", self._counted, self._at)
        if newlines:
            self._line += newlines
            self._line_start = self._text.rfind("\n", self._counted, self._at)
        self._counted = self._at
        return Place(self._file, self._line, self._at - self._line_start)

    def _found(self) -> str:
        character = self._peek()
        return repr(character) if character else "the end of the file"

    def _error(self, message: str) -> ConfigError:
        self._at = min(self._at, len(self._text))
        return self._place().error(message)

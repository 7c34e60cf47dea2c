"""A TOML document read with types: every error is one line that names the file and the field."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ttbr.errors import InvalidError, UnreadableError, UnsupportedError

__all__ = ["Section", "parse", "within"]

# The parser's time is quadratic in the length of a dotted key.
MAX_TEXT, MAX_LINE = 1 << 20, 4000
_PLACE = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)")


@contextmanager
def within(where: str) -> Iterator[None]:
    """Errors of the architecture and of the builder, with *where* they come from, once."""
    try:
        yield
    except UnsupportedError as error:
        raise UnsupportedError(_placed(str(error), where)) from None
    except InvalidError as error:
        raise InvalidError(_placed(str(error), where)) from None


def _placed(message: str, where: str) -> str:
    return message if message.startswith(f"{where}:") else f"{where}: {message}"


def parse(text: str, source: str) -> "Section":
    """The document *text*; `UnreadableError` as ``source:line:column: what`` when it is no TOML."""
    import tomllib

    if len(text) > MAX_TEXT or max(map(len, text.split("\n"))) > MAX_LINE:
        raise UnreadableError(f"{source}: more than {MAX_TEXT} characters, or {MAX_LINE} in a line")
    try:
        return Section(tomllib.loads(text), source)
    except RecursionError:
        raise UnreadableError(f"{source}: nested too deeply") from None
    except ValueError as error:
        found = _PLACE.fullmatch(str(error))
        if found is None:
            raise UnreadableError(f"{source}: {error}") from None
        place = f"{source}:{found['line']}:{found['column']}"
        raise UnreadableError(f"{place}: {found['what']}") from None


def _nothing(_: str) -> int:
    raise InvalidError("an expression is not possible here")


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the document. `where` is its name for errors; `value` reads an expression."""

    fields: Mapping[str, object]
    where: str
    value: Callable[[str], int] = _nothing

    def error(self, key: str, message: str) -> InvalidError:
        return InvalidError(f"{self.where}: {key}: {message}")

    def only(self, *names: str) -> None:
        """Refuse every other field."""
        for key in self.fields:
            if key not in names:
                known = ", ".join(names)
                raise self.error(key, f"there is no such field (there are {known})")

    def _typed(self, key: str, kind: type, what: str, default: object) -> object:
        found = self.fields.get(key, default)
        if type(found) is not kind:
            if key not in self.fields:
                raise self.error(key, "is missing")
            raise self.error(key, f"{found!r:.40} is not {what}")
        return found

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        return str(self._typed(key, str, "a string", default))

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        return bool(self._typed(key, bool, "true or false", default))

    def number(self, key: str, default: int | None = None) -> int:
        """An unsigned 64-bit number, or an expression that gives one."""
        found = self.fields.get(key, default)
        if found is None:
            raise self.error(key, "is missing")
        return self.number_from(key, found)

    def number_from(self, key: str, found: object) -> int:
        """The number that a field's value *found* stands for."""
        if isinstance(found, str):
            with within(f"{self.where}: {key}"):
                found = self.value(found)
        if type(found) is not int:
            raise self.error(key, f"{found!r:.40} is not a number")
        if not 0 <= found < 1 << 64:
            raise self.error(key, f"{hex(found):.40} does not fit in 64 bits")
        return found

    def names(self, key: str) -> tuple[str, ...]:
        """A string or a list of strings; none when the field is absent."""
        found = self.fields.get(key, [])
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error(key, f"{found!r:.40} is not a list of strings")
        return tuple(found)

    def items(self, key: str) -> list[object]:
        """A list, or one item of it; none when the field is absent."""
        found = self.fields.get(key, [])
        return found if isinstance(found, list) else [found]

    def numbers(self, key: str) -> list[int]:
        """A list of numbers or expressions, or one; none when the field is absent."""
        return [self.number_from(key, value) for value in self.items(key)]

    def lists(self, key: str) -> list[list[int]]:
        """A list of lists of numbers or expressions; none when the field is absent."""
        found = self.fields.get(key, [])
        if not isinstance(found, list) or not all(isinstance(item, list) for item in found):
            raise self.error(key, f"{found!r:.40} is not a list of lists of numbers")
        return [[self.number_from(key, value) for value in item] for item in found]

    def section(self, key: str) -> "Section":
        """A table inside this one; empty when it is absent."""
        return self.section_from(key, self.fields.get(key, {}))

    def section_from(self, key: str, found: object) -> "Section":
        """The table that a field's value *found* is."""
        if not isinstance(found, dict):
            raise self.error(key, f"{found!r:.40} is not a table")
        return Section(found, f"{self.where}: {key}", self.value)

    def sections(self, key: str) -> Iterator["Section"]:
        """A list of tables."""
        found = self.fields.get(key, [])
        if not isinstance(found, list):
            raise self.error(key, f"{found!r:.40} is not a list of tables")
        for index, part in enumerate(found):
            yield self.section_from(f"{key}[{index}]", part)

    def with_values(self, value: Callable[[str], int]) -> "Section":
        """The same table, in which *value* reads expressions."""
        return Section(self.fields, self.where, value)

"""A board in a small TOML file, which is also the form of the built-in catalogue.

::

    name = "seattle"
    title = "AMD Seattle"
    source = "arch/arm64/boot/dts/amd/amd-seattle-soc.dtsi"
    confidence = "high"
    notes = ["dma-ranges: 40 bits"]

    [[memory]]
    start = 0x80_0000_0000
    size = 0x4_0000_0000
    name = "DRAM"

``[[reserved]]`` and ``[[mmio]]`` have the form of ``[[memory]]``; ``last`` may stand for ``size``.
Only ``name`` and one ``[[memory]]`` are required.
"""

from collections.abc import Mapping

from ttbr.arch.geometry import PA
from ttbr.boards.board import Board, Window
from ttbr.errors import InvalidError, UnreadableError
from ttbr.tomltext import parse_toml, quoted

__all__ = ["MAX_TEXT", "board_from_table", "format_board", "read"]

TEXTS = ("title", "source", "confidence")
WINDOWS = ("memory", "reserved", "mmio")
CONFIDENCE = ("", "high", "medium", "low")
MAX_TEXT = 1 << 18


def read(text: str, source: str) -> Board:
    """The board in the TOML *text*; `UnreadableError` or `InvalidError` naming file and field."""
    return board_from_table(parse_toml(text, source, MAX_TEXT), source)


def board_from_table(table: Mapping[str, object], where: str) -> Board:
    """The board that the TOML *table* describes; errors begin with *where*."""
    unknown = sorted(set(table) - {"name", "notes", *TEXTS, *WINDOWS})
    if unknown:
        raise UnreadableError(f"{where}: {unknown[0]!r} is not a field of a board")
    name = _text(table, "name", where)
    if not name:
        raise UnreadableError(f"{where}: a board needs a name")
    texts = {field: _text(table, field, where) for field in TEXTS}
    if texts["confidence"] not in CONFIDENCE:
        raise UnreadableError(f"{where}: confidence must be one of {', '.join(CONFIDENCE[1:])}")
    notes = table.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise UnreadableError(f"{where}: notes must be a list of texts")
    memory, reserved, mmio = (_windows(table, field, where) for field in WINDOWS)
    if not memory:
        raise UnreadableError(f"{where}: a board needs at least one [[memory]]")
    return Board(
        name,
        texts["title"] or name,
        memory,
        reserved,
        mmio,
        texts["source"] or where,
        tuple(notes),
        texts["confidence"],
    )


def format_board(board: Board) -> str:
    """*board* as the TOML text that `read` takes back to an equal board."""
    lines = [f"name = {quoted(board.name)}"]
    lines += [f"{field} = {quoted(getattr(board, field))}" for field in TEXTS]
    lines += ["notes = [", *(f"    {quoted(note)}," for note in board.notes), "]"]
    for field in WINDOWS:
        for window in getattr(board, field):
            lines += ["", f"[[{field}]]", f"start = {window.start:#x}", f"size = {window.size:#x}"]
            lines.append(f"name = {quoted(window.name)}")
    return "\n".join(lines) + "\n"


def _text(table: Mapping[str, object], field: str, where: str) -> str:
    value = table.get(field, "")
    if not isinstance(value, str):
        raise UnreadableError(f"{where}: {field} must be a text")
    return value


def _number(row: Mapping[str, object], field: str, where: str) -> int:
    value = row.get(field)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnreadableError(f"{where}: {field} must be a whole number")
    return value


def _windows(table: Mapping[str, object], field: str, where: str) -> tuple[Window, ...]:
    rows = table.get(field, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnreadableError(f"{where}: {field} must be written as [[{field}]]")
    return tuple(_window(row, f"{where}: {field} {n}") for n, row in enumerate(rows, 1))


def _window(row: Mapping[str, object], where: str) -> Window:
    unknown = sorted(set(row) - {"start", "size", "last", "name"})
    if unknown:
        raise UnreadableError(f"{where}: {unknown[0]!r} is not a field of a window")
    if ("size" in row) == ("last" in row):
        raise UnreadableError(f"{where}: one of size and last is needed")
    start = _number(row, "start", where)
    last = row.get("last")
    size = _number(row, "size", where) if last is None else _number(row, "last", where) - start + 1
    try:
        return Window(PA(start), size, _text(row, "name", where))
    except InvalidError as error:
        raise UnreadableError(f"{where}: {error}") from None

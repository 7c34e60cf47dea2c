"""The boards that are known by name, from ``catalogue.toml`` beside this file."""

from functools import cache
from importlib.resources import files

from ttbr.boards.board import Board
from ttbr.boards.toml import MAX_TEXT, board_from_table
from ttbr.errors import UnreadableError
from ttbr.tomltext import parse_toml

__all__ = ["boards"]

FILE = "catalogue.toml"


@cache
def boards() -> dict[str, Board]:
    """Every board of the catalogue by its name, in the order of the file."""
    text = (files(__package__) / FILE).read_text("utf-8")
    rows = parse_toml(text, FILE, MAX_TEXT).get("board")
    if not isinstance(rows, list):
        raise UnreadableError(f"{FILE}: no [[board]]")
    found: dict[str, Board] = {}
    for row in rows:
        board = board_from_table(row, f"{FILE}: {row.get('name')}")
        if board.name in found:
            raise UnreadableError(f"{FILE}: {board.name} is there twice")
        found[board.name] = board
    return found

"""A board's memory map as text and as plain values."""

from collections.abc import Iterable

from ttbr.arch.geometry import size_text
from ttbr.boards import Board, Window

__all__ = ["board_line", "board_text", "plain_board", "window_text"]


def window_text(window: Window) -> str:
    """``0x8000000000-0x83ffffffff (16G) name``."""
    name = f" {window.name}" if window.name else ""
    return f"{window.start:#x}-{window.last:#x} ({size_text(window.size)}){name}"


def board_line(board: Board) -> str:
    """One line of the catalogue."""
    first, *more = board.ram
    others = f" and {len(more)} more" if more else ""
    return (
        f"{board.name:16} {board.title:44} {window_text(Window(first.start, first.size))}{others}"
    )


def board_text(board: Board) -> str:
    """All windows of a board, with its source."""
    lines = [f"{board.name}: {board.title}"]
    for title, windows in (
        ("RAM", board.ram),
        ("reserved", board.reserved),
        ("MMIO", board.mmio),
    ):
        lines += [f"  {title:9} {window_text(window)}" for window in windows]
    if board.source:
        confidence = f" (confidence: {board.confidence})" if board.confidence else ""
        lines.append(f"  source    {board.source}{confidence}")
    lines += [f"  note      {note}" for note in board.notes]
    return "\n".join(lines)


def _windows(windows: Iterable[Window]) -> list[dict[str, object]]:
    return [{"start": hex(w.start), "size": w.size, "name": w.name} for w in windows]


def plain_board(board: Board) -> dict[str, object]:
    """A board as plain values."""
    return {
        "name": board.name,
        "title": board.title,
        "memory": _windows(board.memory),
        "reserved": _windows(board.reserved),
        "mmio": _windows(board.mmio),
        "source": board.source,
        "confidence": board.confidence,
        "notes": list(board.notes),
    }

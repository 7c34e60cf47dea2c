"""Memory maps of boards: RAM, reserved RAM and device windows in physical addresses.

`load` takes a name of the built-in catalogue or a file: a flattened device tree, the text of
``/proc/iomem``, a kernel log with the UEFI memory map, or a small TOML.
"""

from dataclasses import replace
from pathlib import Path

from ttbr.boards import catalogue, devicetree, iomem, toml, uefi
from ttbr.boards.board import Board, Window, devices_in_ram
from ttbr.boards.fdt import MAGIC
from ttbr.boards.toml import format_board
from ttbr.errors import InvalidError, UnreadableError

__all__ = ["Board", "Window", "format_board", "load", "names", "read"]

# A long kernel log is a few MiB.
MAX_FILE = 16 << 20


def names() -> tuple[str, ...]:
    """The names of the built-in catalogue."""
    return tuple(catalogue.boards())


def load(name_or_path: str | Path) -> Board:
    """The board of a catalogue name, or the one that a file describes.

    A text that is a catalogue name is that entry, even where a file is called so; a `Path` is
    always a file. `InvalidError` when it is neither, otherwise as `read`.
    """
    if isinstance(name_or_path, str) and name_or_path in catalogue.boards():
        return catalogue.boards()[name_or_path]
    path = Path(name_or_path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, ValueError):
        raise InvalidError(f"{str(path)!r}: {_no_such(str(path))}") from None
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None
    return read(data, path.name)


def read(data: bytes, source: str) -> Board:
    """The board that the content *data* of a file describes; its form is found from the content.

    *source* is the file's name, for the errors and as the board's name. A note is added for each
    device window that overlaps RAM. `UnreadableError` when the
    form is not known or *data* breaks its rules; `InvalidError` when RAM overlaps.
    """
    if len(data) > MAX_FILE:
        raise UnreadableError(f"{source}: larger than {MAX_FILE >> 20} MiB, no board description")
    board = _read(data, source)
    new = tuple(note for note in devices_in_ram(board) if note not in board.notes)
    return replace(board, notes=board.notes + new) if new else board


def _read(data: bytes, source: str) -> Board:
    name = source.rsplit(".", 1)[0] or source
    if data.startswith(MAGIC):
        return devicetree.read(data, name, source)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError(f"{source}: neither a device tree blob nor text") from None
    if text.lstrip().startswith("/dts-v1/"):
        raise UnreadableError(f"{source}: device tree source, compile it with dtc -O dtb")
    if iomem.looks_like(text):
        return iomem.read(text, name, source)
    if uefi.looks_like(text):
        return uefi.read(text, name, source)
    if source.endswith(".toml") or "[[memory]]" in text:
        return toml.read(text, source)
    raise UnreadableError(
        f"{source}: not a device tree blob, /proc/iomem, a kernel log with a UEFI map, or TOML"
    )


def _no_such(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, names(), 3)
    hint = f"did you mean {', '.join(near)}?" if near else "`ttbr boards` lists the catalogue"
    return f"no such file, and no board of that name; {hint}"

"""A board from the text of ``/proc/iomem``.

Source: Linux kernel/resource.c (the listing) and arch/arm64/kernel/setup.c,
request_standard_resources(): each region of memblock.memory is ``System RAM``, or ``reserved`` at
the top level where it must not be mapped (no-map).
"""

import re

from ttbr.arch.geometry import PA
from ttbr.boards.board import ADDRESS_LIMIT, Board, Window
from ttbr.errors import UnreadableError

__all__ = ["looks_like", "read"]

LINE = re.compile(r"( *)([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")
INDENT = 2  # spaces a level, r_show() in kernel/resource.c
RAM = "System RAM"


def looks_like(text: str) -> bool:
    """Whether any line has the form of the listing."""
    return any(LINE.fullmatch(line.rstrip()) for line in text.split("\n"))


def read(text: str, name: str, source: str) -> Board:
    """The board that the listing *text* describes.

    What lies within System RAM becomes reserved windows, every other top-level range a device
    window. `UnreadableError` with the line number for a line of another form or an empty range, and
    for a listing of zeros, which is what a reader without CAP_SYS_ADMIN gets.
    """
    memory: list[Window] = []
    reserved: list[Window] = []
    mmio: list[Window] = []
    parents: list[str] = []
    addresses = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        depth, start, last, what = _line(line.rstrip(), len(parents), f"{source}: line {number}")
        addresses |= last
        inside = parents[:depth]
        parents = [*inside, what]
        window = Window(PA(start), last - start + 1, what)
        if what.startswith(RAM):
            memory.append(window)
        elif what == "reserved" and not inside:
            memory.append(window)
            reserved.append(window)
        elif any(parent.startswith(RAM) for parent in inside):
            reserved.append(window)
        elif not inside:
            mmio.append(window)
    if not addresses:
        why = "every address is zero: read /proc/iomem as root" if parents else "no ranges"
        raise UnreadableError(f"{source}: {why}")
    return Board(name, name, tuple(memory), tuple(reserved), tuple(mmio), source)


def _line(line: str, depth_limit: int, where: str) -> tuple[int, int, int, str]:
    """Depth, first and last address, and name of one *line*."""
    found = LINE.fullmatch(line)
    if found is None or not found[4].isprintable():
        raise UnreadableError(f"{where}: {line[:60]!r} is not a line of /proc/iomem")
    depth, odd = divmod(len(found[1]), INDENT)
    if odd or depth > depth_limit:
        raise UnreadableError(f"{where}: {len(found[1])} spaces of indentation have no place here")
    start, last = int(found[2], 16), int(found[3], 16)
    if last < start or last >= ADDRESS_LIMIT:
        raise UnreadableError(f"{where}: range {start:#x}-{last:#x} is not a range")
    return depth, start, last, found[4]

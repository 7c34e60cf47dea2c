"""A board as the MMU sees it: windows of RAM, of reserved RAM and of device registers.

`Board.memory` is all DRAM that the operating system is told of, parts that it must not map
included: the content of Linux's ``memblock.memory``, whose ends decide the linear map and the HYP
layout. `Board.reserved` says which parts of it (or beside it) are not free.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from ttbr.arch.geometry import PA
from ttbr.errors import InvalidError

__all__ = ["ADDRESS_LIMIT", "Board", "Window", "devices_in_ram", "merge_adjacent"]

ADDRESS_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """*size* bytes of physical addresses from *start* on.

    `InvalidError` for a window that is empty, ends above 2^64, or whose name is not one printable
    line.
    """

    start: PA
    size: int
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise InvalidError(f"window name {self.name!r}: not one printable line")
        if self.start < 0 or self.size <= 0 or self.start + self.size > ADDRESS_LIMIT:
            raise InvalidError(
                f"window {self.name or 'without a name'}: start {self.start:#x}, size"
                f" {self.size:#x}: must hold at least one byte and end below 2^64"
            )

    @property
    def last(self) -> PA:
        """The address of the last byte."""
        return PA(self.start + self.size - 1)

    def __str__(self) -> str:
        span = f"{self.start:#x}-{self.last:#x}"
        return f"{self.name} {span}" if self.name else span


@dataclass(frozen=True, slots=True)
class Board:
    """The memory map of one machine; every tuple is in address order.

    `source` says where the map was read or published, `notes` what a reader of it should know, and
    `confidence` (``high``, ``medium``, ``low``) how well a catalogue entry is attested; it is empty
    for a map read from the machine itself. `InvalidError` when two windows of RAM overlap.
    """

    name: str
    title: str
    memory: tuple[Window, ...]
    reserved: tuple[Window, ...] = ()
    mmio: tuple[Window, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    confidence: str = ""

    def __post_init__(self) -> None:
        for field in ("memory", "reserved", "mmio"):
            object.__setattr__(self, field, tuple(sorted(getattr(self, field))))
        for low, high in pairwise(self.memory):
            if low.last >= high.start:
                where = self.source or self.name
                raise InvalidError(f"{where}: {_ram(low)} overlaps {_ram(high)}")

    @property
    def ram(self) -> tuple[Window, ...]:
        """`memory` with windows that touch made one; the name is kept where all agree."""
        return merge_adjacent(self.memory)


def _ram(window: Window) -> str:
    """``RAM node 0 0x0-0xfff``; the name may say already that it is RAM."""
    return f"{window}" if "RAM" in window.name else f"RAM {window}"


def devices_in_ram(board: Board) -> tuple[str, ...]:
    """A sentence for each device window that overlaps RAM."""
    ram = board.ram
    found = []
    for device in board.mmio:
        at = bisect_right(ram, device.last, key=lambda window: window.start) - 1
        if at >= 0 and ram[at].last >= device.start:
            found.append(f"device window {device} overlaps {_ram(ram[at])}")
    return tuple(found)


def merge_adjacent(windows: Iterable[Window]) -> tuple[Window, ...]:
    """*windows*, in address order and without overlap, with those that touch made one."""
    merged: list[Window] = []
    for window in windows:
        if merged and merged[-1].start + merged[-1].size == window.start:
            low = merged[-1]
            name = low.name if low.name == window.name else ""
            merged[-1] = Window(low.start, low.size + window.size, name)
        else:
            merged.append(window)
    return tuple(merged)

"""The descriptors that a walk may read: the content of the declared tables, once read, kept."""

import struct
from collections.abc import Iterable

from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.protocol import Memory

__all__ = ["TableMemory"]

_PAGE = 12
_CONTIGUOUS = 1 << 52


class TableMemory:
    """The 8-byte words of the declared tables, before any store of the trace.

    A word outside them reads as None: memory that is not a table, whose content is unknown.
    """

    def __init__(self, memory: Memory, tables: Iterable[tuple[int, int]]) -> None:
        self._memory = memory
        self._extents = sorted(tables)
        self._pages: dict[int, tuple[int, int]] = {}
        for address, size in self._extents:
            for page in range(address >> _PAGE, (address + size - 1 >> _PAGE) + 1):
                low, high = self._pages.get(page, (address, address + size))
                self._pages[page] = (min(low, address), max(high, address + size))
        self._words: dict[int, int | None] = {}
        self._contiguous: dict[int, bool] = {}

    def __getitem__(self, location: int) -> int | None:
        """The word at *location*; None outside the declared tables."""
        try:
            return self._words[location]
        except KeyError:
            word = self._words[location] = self._read(location)
            return word

    def is_table(self, location: int) -> bool:
        """Whether *location* is in a declared table."""
        extent = self._pages.get(location >> _PAGE)
        return extent is not None and extent[0] <= location < extent[1]

    def _read(self, location: int) -> int | None:
        if not self.is_table(location):
            return None
        try:
            return int.from_bytes(self._memory.read(location, 8), "little")
        except MemoryFault:
            raise InvalidError(f"the table at {location:#x} is not in memory") from None

    def words(self, table: int, count: int) -> tuple[int | None, ...]:
        """*count* words from *table* on."""
        extent = self._pages.get(table >> _PAGE)
        if extent is None or not extent[0] <= table or table + 8 * count > extent[1]:
            return tuple(self[at] for at in range(table, table + 8 * count, 8))
        try:
            return struct.unpack(f"<{count}Q", self._memory.read(table, 8 * count))
        except MemoryFault:
            raise InvalidError(f"the table at {table:#x} is not in memory") from None

    def may_be_contiguous(self, table: int, size: int) -> bool:
        """Whether any descriptor of *table* has the Contiguous bit, so that groups need a look."""
        found = self._contiguous.get(table)
        if found is None:
            words = self.words(table, size // 8)
            found = any(w is not None and w & 1 and w & _CONTIGUOUS for w in words)
            self._contiguous[table] = found
        return found

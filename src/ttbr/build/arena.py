"""Where tables are put: free windows of physical memory, and the bytes of the tables in them."""

from bisect import bisect_right, insort
from collections.abc import Iterable

from ttbr.arch.geometry import Granule
from ttbr.arch.geometry import granule as granule_called
from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.segments import Buffer, Segment, SegmentMemory

__all__ = ["Arena"]

_TOP = 1 << 52


def _by_address(segment: Segment) -> int:
    return segment.address


class Arena:
    """Free windows, taken from the first one's start upwards, and all tables that were put there.

    *windows* are (address, size) in order of preference. Several tables may be built in one arena,
    by hand or from regions; `memory` shows them all. `InvalidError` for a window that is not
    aligned to the granule, overlaps another one or is above 52 bits.
    """

    def __init__(self, windows: Iterable[tuple[int, int]], granule: str | Granule = "4K") -> None:
        self.granule = granule_called(granule) if isinstance(granule, str) else granule
        self.free_windows: list[tuple[int, int]] = []
        self.segments: list[Segment] = []
        self._freed: list[int] = []
        for address, size in windows:
            self._check(address, size)
            self.free_windows.append((address, size))
        if not self.free_windows:
            raise InvalidError("table windows: none is given")

    @classmethod
    def at(cls, base: int, granule: str | Granule = "4K") -> "Arena":
        """All memory from *base* upwards."""
        return cls([(base, _TOP - base)], granule)

    def _check(self, address: int, size: int) -> None:
        name = f"table window {address:#x}-{address + size - 1:#x}"
        page = self.granule.size
        if address < 0 or size <= 0 or address + size > _TOP:
            raise InvalidError(f"table window {address:#x}, size {size:#x}: not in 52 bits")
        if (address | size) & (page - 1):
            raise InvalidError(f"{name}: not aligned to the {self.granule.name} page")
        for other, length in self.free_windows:
            if address < other + length and other < address + size:
                raise InvalidError(f"{name} overlaps the window at {other:#x}")

    @property
    def free_pages(self) -> int:
        """Pages of the windows that are left."""
        return sum(size for _, size in self.free_windows) // self.granule.size

    def reserve(self, pages: int) -> list[tuple[int, int]]:
        """*pages* pages as (address, pages) pieces; `InvalidError` when so many are not left."""
        if pages > self.free_pages:
            raise InvalidError(
                f"table windows: {pages} pages are needed, {self.free_pages} are left"
            )
        pieces = []
        while pages:
            address, size = self.free_windows[0]
            taken = min(pages, size // self.granule.size)
            self._drop(0, address, taken * self.granule.size)
            pieces.append((address, taken))
            pages -= taken
        return pieces

    def take(self, pages: int = 1, align: int | None = None) -> int:
        """The address of *pages* neighbouring pages aligned to *align* bytes (default: a page)."""
        align = max(align or 0, self.granule.size)
        length = pages * self.granule.size
        for at, (address, size) in enumerate(self.free_windows):
            start = address + align - 1 & -align
            if start + length <= address + size:
                self._drop(at, start, length)
                return start
        raise InvalidError(f"table windows: none has {pages} free pages aligned to {align:#x}")

    def _drop(self, at: int, start: int, length: int) -> None:
        """Take *length* bytes at *start* out of window number *at*."""
        address, size = self.free_windows[at]
        rest = [(address, start - address), (start + length, address + size - start - length)]
        self.free_windows[at : at + 1] = [window for window in rest if window[1]]

    def claim(self, address: int, size: int) -> None:
        """Take the pages that *size* bytes at *address* touch out of the windows that have them.

        `InvalidError` when tables are there already.
        """
        at = bisect_right(self.segments, address, key=_by_address)
        for other in self.segments[max(at - 1, 0) : at + 1]:
            if other.address < address + size and address < other.end:
                raise InvalidError(
                    f"tables at {address:#x}-{address + size - 1:#x} overlap tables at "
                    f"{other.address:#x}-{other.end - 1:#x}"
                )
        mask = self.granule.size - 1
        low, high = address & ~mask, address + size + mask & ~mask
        for at in reversed(range(len(self.free_windows))):
            start, length = self.free_windows[at]
            first, last = max(start, low), min(start + length, high)
            if first < last:
                self._drop(at, first, last - first)

    def free(self, address: int) -> None:
        """Give the table page at *address* back for the next `new_table`; till then it stays."""
        self._freed.append(address)

    def hold(self, address: int, size: int, data: Buffer, offset: int = 0) -> None:
        """Let *size* bytes of the writable *data* be the memory at *address*."""
        insort(self.segments, Segment(address, size, data, offset), key=_by_address)

    def new_table(self, size: int | None = None, align: int | None = None) -> int:
        """The address of a fresh table, all entries invalid; *size* bytes (default: a page)."""
        page = self.granule.size
        if size is None and align is None and self._freed:
            address = self._freed.pop()
            for at in range(address, address + page, 8):
                self.store(at, 0)
            return address
        pages = -(-(size or page) // page)
        address = self.take(pages, align)
        self.hold(address, pages * page, bytearray(pages * page))
        return address

    def _segment(self, address: int, size: int) -> Segment:
        at = bisect_right(self.segments, address, key=_by_address) - 1
        if at < 0 or address + size > self.segments[at].end:
            raise MemoryFault(address, size, "no table there")
        return self.segments[at]

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at *address*; `MemoryFault` where no table is."""
        segment = self._segment(address, size)
        at = segment.offset + address - segment.address
        return bytes(segment.data[at : at + size])

    def load(self, address: int) -> int:
        """The descriptor at *address*; `MemoryFault` where no table is."""
        return int.from_bytes(self.read(address, 8), "little")

    def store(self, address: int, descriptor: int) -> None:
        """Write *descriptor* at *address*; `MemoryFault` where no table is."""
        segment = self._segment(address, 8)
        at = segment.offset + address - segment.address
        segment.data[at : at + 8] = descriptor.to_bytes(8, "little")  # type: ignore[index]

    def memory(self) -> SegmentMemory:
        """All tables of the arena as memory; what is stored later is seen in it."""
        return SegmentMemory(self.segments)

"""Memory made of segments: sparse pages, a raw image, the PT_LOADs of a core."""

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from ttbr.errors import InvalidError, MemoryFault, UnreadableError
from ttbr.record import record

__all__ = ["RawMemory", "Segment", "SegmentMemory", "SparseMemory", "map_file"]

Buffer = bytes | bytearray | memoryview | mmap.mmap


@record
class Segment:
    """*size* bytes at physical *address*, held in *data* from *offset*."""

    address: int
    size: int
    data: Buffer
    offset: int = 0

    @property
    def end(self) -> int:
        return self.address + self.size


class SegmentMemory:
    """Segments that do not overlap; `InvalidError` names the two that do."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = sorted((s for s in segments if s.size), key=lambda s: s.address)
        for left, right in zip(self.segments, self.segments[1:], strict=False):
            if left.end > right.address:
                raise InvalidError(
                    f"segments overlap: {left.address:#x}-{left.end:#x} "
                    f"and {right.address:#x}-{right.end:#x}"
                )
        self._starts = [s.address for s in self.segments]
        self._last = Segment(0, 0, b"")

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at *address*; `MemoryFault` where no segment holds them."""
        segment = self._last
        if not segment.address <= address < segment.address + segment.size:
            segment = self._last = self._segment(address, size)
        start = segment.offset + address - segment.address
        available = segment.address + segment.size - address
        if size <= available:
            return bytes(segment.data[start : start + size])
        # To the end first: a read of much that is not there must not copy what is.
        spans = [(segment, start, available)]
        while available < size:
            segment = self._segment(address + available, size - available)
            part = min(segment.size, size - available)
            spans.append((segment, segment.offset, part))
            available += part
        return b"".join(bytes(s.data[start : start + part]) for s, start, part in spans)

    def _segment(self, address: int, size: int) -> Segment:
        """The segment that holds *address*; *size* is what was asked for there."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self.segments[index].end:
            raise MemoryFault(address, size)
        return self.segments[index]


class SparseMemory(SegmentMemory):
    """Memory from ``{address: bytes}``."""

    def __init__(self, pages: Mapping[int, Buffer]) -> None:
        super().__init__(Segment(address, len(data), data) for address, data in pages.items())


class RawMemory(SegmentMemory):
    """A raw image file at physical address *base*, mapped, not read."""

    def __init__(self, path: str | os.PathLike[str], base: int = 0) -> None:
        data = map_file(path)
        super().__init__([Segment(base, len(data), data)])


def map_file(path: str | os.PathLike[str]) -> Buffer:
    """The file's bytes, memory-mapped; `UnreadableError` when it is empty or cannot be opened."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UnreadableError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"{path}: {why}") from error

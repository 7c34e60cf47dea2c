"""The one thing that the walk asks of memory."""

TYPE_CHECKING = False  # `typing` costs 12 ms of start-up, see `ttbr.record`
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

__all__ = ["Memory"]


class Memory(Protocol):
    """Physical memory, read by address."""

    def read(self, address: int, size: int) -> bytes:
        """*size* bytes at physical *address*; `ttbr.errors.MemoryFault` where nothing is."""

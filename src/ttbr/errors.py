"""The exceptions: what was unreadable or invalid, said in one line.

::

    TtbrError
     +- InvalidError        a value that the architecture or this version does not accept
     |   +- UnsupportedError   legal, but not modelled; names the bit that asks for it
     +- UnreadableError     a file or format that cannot be read
     +- MemoryFault         an address that no memory backs (carries `address`)

A translation fault is not an exception: a walk returns it (`ttbr.arch.faults.Fault`).
"""

__all__ = ["InvalidError", "MemoryFault", "TtbrError", "UnreadableError", "UnsupportedError"]


class TtbrError(Exception):
    """Base of all errors of this package; its text is one line for a person."""


class InvalidError(TtbrError):
    """A value that the architecture, or a definition of ours, does not accept."""


class UnsupportedError(InvalidError):
    """A legal configuration that is not modelled; the text names the bit that asks for it."""


class UnreadableError(TtbrError):
    """A file that cannot be read as what it should be; the text names the file."""


class MemoryFault(TtbrError):
    """No memory backs *address*."""

    def __init__(self, address: int, size: int, why: str = "no memory there") -> None:
        super().__init__(address, size, why)
        self.address = address
        self.size = size

    def __str__(self) -> str:
        address, size, why = self.args
        return f"{address:#x}: {why} (read of {size} bytes)"

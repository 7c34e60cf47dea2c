"""Where bytes come from: anything with ``read(address, size)``."""

from ttbr.memory.image import Image, open_image
from ttbr.memory.protocol import Memory
from ttbr.memory.registerfile import RegisterFile, read_registers
from ttbr.memory.segments import RawMemory, Segment, SegmentMemory, SparseMemory

__all__ = [
    "Image",
    "Memory",
    "RawMemory",
    "RegisterFile",
    "Segment",
    "SegmentMemory",
    "SparseMemory",
    "open_image",
    "read_registers",
]

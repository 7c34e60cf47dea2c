"""Open a memory image, whatever it is: an ELF core (also gzip-compressed) or a raw image."""

import os

from ttbr.errors import InvalidError, UnreadableError
from ttbr.memory.protocol import Memory
from ttbr.memory.registerfile import RegisterFile
from ttbr.memory.segments import Buffer, Segment, SegmentMemory, map_file
from ttbr.record import record

__all__ = ["Image", "open_image"]

_GZIP = b"\x1f\x8b"
# What a compressed image may unpack to: a core of tables is some MiB; more is kept in a file.
UNPACKED_LIMIT, _PIECE = 1 << 28, 1 << 20
# Other dump formats, by their first bytes: known, not readable here.
_OTHER = {
    b"KDUMP   ": "a compressed kdump (makedumpfile)",
    b"makedumpfile": "a flattened makedumpfile stream",
    b"EMiL": "a LiME dump",
    b"VMCS": "a VMware saved state",
    b"QEVM": "a QEMU migration stream",
    b"\xfd7zXZ": "an xz archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 archive",
}


NO_REGISTERS = RegisterFile({})


@record
class Image:
    """An opened image: its `kind` (``ELF core``, ``raw``), memory and, if any, registers.

    A live target is one too, with memory of another kind.
    """

    path: str
    kind: str
    memory: Memory
    registers: RegisterFile = NO_REGISTERS

    @property
    def segments(self) -> list[Segment]:
        """What memory is there, lowest first; empty where that is not known beforehand."""
        return self.memory.segments if isinstance(self.memory, SegmentMemory) else []


def _unpack(path: str, limit: int = UNPACKED_LIMIT) -> bytearray:
    import gzip
    import zlib

    data = bytearray()
    try:
        with gzip.open(path, "rb") as file:
            while piece := file.read(_PIECE):
                data += piece
                if len(data) > limit:
                    raise UnreadableError(
                        f"{path}: unpacks to more than {limit >> 20} MiB; unpack it to a file"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"{path}: damaged gzip file ({error})") from None
    return data


def open_image(path: str | os.PathLike[str], base: int | None = None) -> Image:
    """Open *path*: an ELF core (also gzip-compressed), or a raw image at physical address *base*.

    A file that is neither ELF nor a known other format is a raw image, which needs *base*; a core
    must not have it. Nothing is read but headers. Raises `UnreadableError` for the file and
    `InvalidError` for *base*.
    """
    name = os.fspath(path)
    data: Buffer = map_file(name)
    if data[:2] == _GZIP:
        data = _unpack(name)
        if not data:
            raise UnreadableError(f"{name}: the gzip file holds nothing")
    start = bytes(data[:64])
    if start.startswith(b"\x7fELF"):
        from ttbr.memory.elfcore import parse_core

        if base is not None:
            raise InvalidError(f"{name}: is an ELF core, whose addresses are its own: drop --base")
        core = parse_core(data, name)
        return Image(
            name, "ELF core", core.memory, RegisterFile(core.registers, core.pstate, core.general)
        )
    for magic, what in _OTHER.items():
        if start.startswith(magic):
            raise UnreadableError(
                f"{name}: {what}, which is not supported; use an ELF core or a raw image"
            )
    if base is None:
        raise UnreadableError(
            f"{name}: not an ELF core; a raw image needs --base, the address of its first byte"
        )
    if not 0 <= base < 1 << 52 or base + len(data) > 1 << 52:
        raise InvalidError(f"{name}: base {base:#x} puts the image beyond 52 bits")
    return Image(name, "raw", SegmentMemory([Segment(base, len(data), data)]))

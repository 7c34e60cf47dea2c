"""Tables as an ELF object: a section for each contiguous piece, symbols for roots and registers.

ET_REL for EM_AARCH64, little-endian. ``<name>_root`` and ``<name>_<address>`` are in their
sections; ``<name>_TCR_EL1`` and the other values are absolute symbols.
"""

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from ttbr.build.tables import Tables, TableSet
from ttbr.build.writers import Section, as_set, sections

__all__ = ["write_elf"]

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_IDENT = b"\x7fELF" + bytes((2, 1, 1))  # ELFCLASS64, ELFDATA2LSB, EV_CURRENT
_ET_REL, _EM_AARCH64 = 1, 183
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB = 1, 2, 3
_SHF_WRITE, _SHF_ALLOC = 1, 2
_SHN_ABS, _GLOBAL_OBJECT, _GLOBAL_NOTYPE = 0xFFF1, 1 << 4 | 1, 1 << 4


@dataclass(slots=True)
class _Strings:
    """A string table being filled."""

    data: bytearray = field(default_factory=lambda: bytearray(1))

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode("ascii") + b"\0"
        return at


@dataclass(slots=True)
class _Headers:
    """Section headers being filled; sections follow each other in the file from `end` on."""

    names: _Strings = field(default_factory=_Strings)
    rows: list[bytes] = field(default_factory=lambda: [bytes(_SHDR.size)])
    end: int = _EHDR.size

    def add(
        self, name: str, kind: int, size: int, flags: int = 0, align: int = 1, symbols_of: int = 0
    ) -> None:
        """A section; *symbols_of* is the string table of a symbol table, with one local symbol."""
        linked = (symbols_of, 1, align, _SYM.size) if symbols_of else (0, 0, align, 0)
        label = self.names.add(name)
        self.rows.append(_SHDR.pack(label, kind, flags, 0, self.end, size, *linked))
        self.end += size


def _symbols(values: dict[str, int], name: str, pieces: list[Section], strings: _Strings) -> bytes:
    """The symbol table: the null symbol, then global ones only."""
    symbols = [bytes(_SYM.size)]

    def add(label: str, kind: int, section: int, value: int, size: int) -> None:
        at = strings.add(f"{name}_{label}")
        symbols.append(_SYM.pack(at, kind, 0, section, value, size))

    for number, piece in enumerate(pieces, 1):
        add(f"{piece.address:x}", _GLOBAL_OBJECT, number, 0, piece.size)
        for root in piece.roots:
            add(root.name, _GLOBAL_OBJECT, number, root.address - piece.address, root.size)
    for label, value in values.items():
        add(label, _GLOBAL_NOTYPE, _SHN_ABS, value, 0)
    return b"".join(symbols)


def write_elf(tables: Tables | TableSet, file: BinaryIO, name: str = "tables") -> None:
    """Write the object to *file*, table bytes straight from the arena."""
    pieces = sections(tables, name)
    strings, headers = _Strings(), _Headers()
    symbols = _symbols(as_set(tables).values, name, pieces, strings)
    for piece in pieces:
        flags = _SHF_WRITE | _SHF_ALLOC
        headers.add(piece.name, _SHT_PROGBITS, piece.size, flags, piece.align)
    headers.add(".symtab", _SHT_SYMTAB, len(symbols), align=8, symbols_of=len(pieces) + 2)
    headers.add(".strtab", _SHT_STRTAB, len(strings.data))
    headers.names.add(".shstrtab")
    names = headers.names.data
    at = len(names) - len(".shstrtab") - 1
    row = (at, _SHT_STRTAB, 0, 0, headers.end, len(names), 0, 0, 1, 0)
    headers.rows.append(_SHDR.pack(*row))
    end = headers.end + len(names)
    count = len(headers.rows)
    sizes = (_EHDR.size, 0, 0, _SHDR.size, count, count - 1)
    start = end + -end % 8
    file.write(_EHDR.pack(_IDENT, _ET_REL, _EM_AARCH64, 1, 0, 0, start, 0, *sizes))
    for piece in pieces:
        for view in piece.data():
            file.write(view)
    file.write(symbols + strings.data + names + bytes(start - end) + b"".join(headers.rows))

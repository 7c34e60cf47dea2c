"""Tables as a raw image and as source text, with the registers that go with them.

Descriptors hold physical addresses, so each contiguous piece of tables becomes a section of its
own, named ``.ttbr.<name>.<address>``, that the link must put at that address
(``ld --section-start``, or a linker script). `ttbr.build.elf` writes the same as an ELF object.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import BinaryIO

from ttbr.build.builder import Layout
from ttbr.build.tables import Root, Tables, TableSet
from ttbr.errors import InvalidError
from ttbr.memory.segments import Segment

__all__ = ["Section", "assembly", "c_header", "rust_source", "sections", "write_binary"]

# A hole in a raw image is all zero bytes; windows further apart than this need separate images.
MOST_HOLE = 1 << 30


@dataclass(frozen=True, slots=True)
class Section:
    """Tables without a gap from *address* on; *parts* are their bytes, *roots* those among them."""

    name: str
    address: int
    parts: tuple[Segment, ...]
    roots: tuple[Root, ...]

    @property
    def size(self) -> int:
        return self.parts[-1].end - self.address

    @property
    def align(self) -> int:
        """A power of two that divides the address: 64K, or less where the address has less."""
        return min(self.address & -self.address or 1 << 16, 1 << 16)

    def data(self) -> Iterator[memoryview]:
        """The bytes, part after part."""
        for part in self.parts:
            yield memoryview(part.data)[part.offset : part.offset + part.size]

    def words(self) -> list[int]:
        """All descriptors."""
        return [d for view in self.data() for (d,) in struct.iter_unpack("<Q", view)]


def as_set(tables: Tables | TableSet) -> TableSet:
    """*tables* with what goes along with them."""
    return tables.table_set if isinstance(tables, Tables) else tables


def sections(tables: Tables | TableSet, name: str = "tables") -> list[Section]:
    """The contiguous pieces of all tables of the arena, in order of address."""
    roots = as_set(tables).roots
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InvalidError(f"name {name!r}: must be an identifier of C, Rust and the assembler")
    pieces: list[list[Segment]] = []
    for segment in tables.arena.segments:
        if pieces and pieces[-1][-1].end == segment.address:
            pieces[-1].append(segment)
        else:
            pieces.append([segment])
    found = []
    for parts in pieces:
        start, end = parts[0].address, parts[-1].end
        inside = tuple(root for root in roots if start <= root.address < end)
        found.append(Section(f".ttbr.{name}.{start:x}", start, tuple(parts), inside))
    return found


def write_binary(tables: Tables | TableSet | Layout, file: BinaryIO) -> int:
    """Write a raw image to *file*; the address of its first byte is returned.

    A `Layout` is made and written a chunk at a time. Between windows the file has holes;
    `InvalidError` when one is beyond `MOST_HOLE`. *file* must be seekable.
    """
    if isinstance(tables, Layout):
        spans = [(piece.address, piece.size) for piece in tables.pieces]
        data: Iterator[tuple[int, memoryview]] = tables.chunks()
    else:
        found = sections(tables)
        spans = [(section.address, section.size) for section in found]
        data = ((s.address + at, v) for s in found for at, v in _offsets(s))
    spans.sort()
    base = end = spans[0][0]
    for address, size in spans:
        if address - end > MOST_HOLE:
            raise InvalidError(
                f"raw image: nothing is between {end:#x} and {address:#x}; write an ELF object"
            )
        end = max(end, address + size)
    start = file.tell()
    for address, view in data:
        file.seek(start + address - base)
        file.write(view)
    file.seek(start + end - base)
    file.truncate()
    return base


def _offsets(section: Section) -> Iterator[tuple[int, memoryview]]:
    at = 0
    for view in section.data():
        yield at, view
        at += len(view)


def _zero_runs(words: list[int]) -> Iterator[tuple[int, list[int]]]:
    """(index, words) of the stretches that are all zero or have no zero."""
    at = 0
    for _, group in groupby(words, key=bool):
        stretch = list(group)
        yield at, stretch
        at += len(stretch)


def assembly(tables: Tables | TableSet, name: str = "tables") -> str:
    """GNU assembler source: a section for each piece, ``<name>_root``, and values as symbols."""
    lines = []
    for register, value in as_set(tables).values.items():
        lines += [f"\t.globl {name}_{register}", f"\t.set {name}_{register}, {value:#x}"]
    for section in sections(tables, name):
        lines += ["", f'\t.section {section.name}, "aw", %progbits', f"\t.balign {section.align}"]
        label = f"{name}_{section.address:x}"
        lines += [f"\t.globl {label}", f"{label}:"]
        for root in section.roots:
            place = f"{label} + {root.address - section.address:#x}"
            symbol = f"{name}_{root.name}"
            lines += [f"\t.globl {symbol}", f"\t.set {symbol}, {place}"]
        for _, stretch in _zero_runs(section.words()):
            if not stretch[0]:
                lines.append(f"\t.zero {8 * len(stretch)}")
                continue
            for at in range(0, len(stretch), 4):
                lines.append("\t.quad " + ", ".join(f"{d:#x}" for d in stretch[at : at + 4]))
    return "\n".join(lines) + "\n"


def _constants(tables: Tables | TableSet) -> list[tuple[str, int]]:
    """The values and the roots' addresses, under names in capitals."""
    found = as_set(tables)
    pairs = [*found.values.items(), *((root.name, root.address) for root in found.roots)]
    return [(name.upper(), value) for name, value in pairs]


def c_header(tables: Tables | TableSet, name: str = "tables") -> str:
    """A C header for one translation unit: an array for each piece, and macros for registers."""
    guard = f"TTBR_{name.upper()}_H"
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", ""]
    for constant, value in _constants(tables):
        lines.append(f"#define {name.upper()}_{constant} UINT64_C({value:#x})")
    for section in sections(tables, name):
        words = section.words()
        place = f'__attribute__((used, aligned({section.align}), section("{section.name}")))'
        lines += ["", f"static uint64_t {name}_{section.address:x}[{len(words)}] {place} = {{"]
        for at, stretch in _zero_runs(words):
            if stretch[0]:
                lines.append(f"\t[{at}] =")
                lines += [f"\t{row}," for row in _rows(stretch, "UINT64_C({:#x})")]
        lines.append("};")
    return "\n".join([*lines, "", "#endif"]) + "\n"


def rust_source(tables: Tables | TableSet, name: str = "tables") -> str:
    """A Rust module: a static for each piece in its section, and constants for registers."""
    lines = []
    for constant, value in _constants(tables):
        lines.append(f"pub const {constant}: u64 = {value:#x};")
    for section in sections(tables, name):
        words = section.words()
        label = f"{name.upper()}_{section.address:X}"
        kind = f"Aligned{section.address:X}"
        lines += ["", f"#[repr(C, align({section.align}))]"]
        lines += [f"pub struct {kind}(pub [u64; {len(words)}]);", "", "#[used]"]
        lines += [f'#[link_section = "{section.name}"]']
        lines += [f"pub static mut {label}: {kind} = {kind}(["]
        lines += [f"    {row}," for row in _rows(words, "{:#x}")]
        lines.append("]);")
    return "\n".join(lines) + "\n"


def _rows(words: list[int], form: str) -> list[str]:
    return [", ".join(form.format(d) for d in words[at : at + 4]) for at in range(0, len(words), 4)]

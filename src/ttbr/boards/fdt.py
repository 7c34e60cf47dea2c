"""The flattened device tree blob, version 17: bytes to a tree of nodes and properties.

Source: Devicetree Specification v0.4, chapter 5. What a property means is the business of
`ttbr.boards.devicetree`. A blob may be cut off or hostile: the tree costs memory and time in
proportion to the blob, and depth is bounded.
"""

import struct
from dataclasses import dataclass, field

from ttbr.errors import UnreadableError

__all__ = ["MAGIC", "Node", "Property", "Tree", "parse"]

MAGIC = b"\xd0\x0d\xfe\xed"

HEADER = struct.Struct(">10I")
VERSION = 17
BEGIN_NODE, END_NODE, PROP, NOP, END = 1, 2, 3, 4, 9

# Linux refuses a deeper tree too (FDT_MAX_DEPTH in drivers/of/fdt.c).
MAX_DEPTH = 64
# The specification allows 31 characters; trees in use have longer property names.
MAX_PROPERTY_NAME = 127
# MAX_FDT_SIZE in arch/arm64/include/asm/boot.h.
MAX_SIZE = 2 << 20


@dataclass(frozen=True, slots=True)
class Property:
    """A property: `offset` is where its value starts in the blob."""

    name: str
    value: bytes
    offset: int

    def strings(self) -> list[str]:
        """The value as a list of NUL-terminated strings; undecodable bytes become U+FFFD."""
        return self.value.rstrip(b"\0").decode("utf-8", "replace").split("\0")


@dataclass(slots=True, eq=False, repr=False)
class Node:
    """A node with its properties and children in the order of the blob."""

    name: str
    offset: int
    properties: dict[str, Property] = field(default_factory=dict)
    children: list["Node"] = field(default_factory=list)

    def string(self, name: str) -> str:
        """The first string of property *name*, or an empty one."""
        found = self.properties.get(name)
        return found.strings()[0] if found is not None else ""


@dataclass(frozen=True, slots=True)
class Tree:
    """The root node and the header's memory reservation block as (address, size) rows."""

    root: Node
    reserved: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Blob:
    """The bytes of a blob, read with the file and offset in every error."""

    data: bytes
    source: str

    def error(self, offset: int, what: str) -> UnreadableError:
        return UnreadableError(f"{self.source}: offset {offset:#x}: {what}")

    def word(self, offset: int, end: int) -> int:
        if offset + 4 > end:
            raise self.error(offset, "device tree is cut off")
        return int.from_bytes(self.data[offset : offset + 4], "big")

    def name(self, offset: int, end: int, what: str) -> str:
        stop = self.data.find(b"\0", offset, end)
        if stop < 0:
            raise self.error(offset, f"{what} name is cut off or too long")
        name = self.data[offset:stop].decode("latin-1")
        if not (name.isascii() and name.isprintable()):
            raise self.error(offset, f"{what} name {name[:40]!r} is not printable ASCII")
        return name


def parse(data: bytes, source: str) -> Tree:
    """The tree in the blob *data*; *source* is the file's name for the errors.

    `UnreadableError`, with the file and the offset, when the blob breaks a rule of the format.
    """
    blob = _Blob(data, source)
    if len(data) < HEADER.size:
        raise blob.error(len(data), f"device tree header is cut off, {HEADER.size} bytes needed")
    magic, total, structure, strings, reserve, version, compatible, _, strings_size, size = (
        HEADER.unpack_from(data)
    )
    if magic != int.from_bytes(MAGIC, "big"):
        raise blob.error(0, f"magic {magic:#x} is not that of a device tree blob")
    if version < VERSION or compatible > VERSION:
        raise blob.error(
            20, f"version {version} (compatible to {compatible}) is not supported, only {VERSION}"
        )
    if total > MAX_SIZE:
        raise blob.error(4, f"totalsize {total:#x} is more than the {MAX_SIZE:#x} that Linux takes")
    if total > len(data):
        raise blob.error(
            4, f"device tree is cut off: totalsize {total:#x}, the file has {len(data):#x} bytes"
        )
    for at, offset, length, what in (
        (8, structure, size, "structure"),
        (12, strings, strings_size, "strings"),
        (16, reserve, 16, "memory reservation"),
    ):
        if offset < HEADER.size or offset + length > total:
            raise blob.error(at, f"{what} block {offset:#x}+{length:#x} lies outside the blob")
    if structure % 4:
        raise blob.error(8, f"structure block {structure:#x} is not 4-byte aligned")
    return Tree(
        _structure(blob, (structure, structure + size), (strings, strings + strings_size)),
        _reservations(blob, reserve, total),
    )


def _reservations(blob: _Blob, offset: int, end: int) -> tuple[tuple[int, int], ...]:
    rows: list[tuple[int, int]] = []
    while offset + 16 <= end:
        row = struct.unpack_from(">2Q", blob.data, offset)
        if row == (0, 0):
            return tuple(rows)
        rows.append((row[0], row[1]))
        offset += 16
    raise blob.error(offset, "memory reservation block has no end")


def _structure(blob: _Blob, span: tuple[int, int], strings: tuple[int, int]) -> Node:
    offset, end = span
    names: dict[int, str] = {}
    root: Node | None = None
    path: list[Node] = []
    while True:
        token = blob.word(offset, end)
        at, offset = offset, offset + 4
        if token == BEGIN_NODE:
            node = Node(blob.name(offset, end, "node"), at)
            offset = _aligned(offset + len(node.name) + 1)
            if path:
                path[-1].children.append(node)
            elif root is None:
                root = node
            else:
                raise blob.error(at, "second root node")
            path.append(node)
            if len(path) > MAX_DEPTH:
                raise blob.error(at, f"nodes nest deeper than {MAX_DEPTH}")
        elif token == END_NODE and path:
            path.pop()
        elif token == PROP and path:
            offset = _property(blob, path[-1], (offset, end), strings, names)
        elif token == END and root is not None and not path:
            return root
        elif token != NOP:
            raise blob.error(at, f"token {token:#x} has no place here")


def _property(
    blob: _Blob,
    node: Node,
    span: tuple[int, int],
    strings: tuple[int, int],
    names: dict[int, str],
) -> int:
    """Read the property at ``span[0]`` into *node*; returns the offset behind it."""
    offset, end = span
    length = blob.word(offset, end)
    name_offset = strings[0] + blob.word(offset + 4, end)
    value = offset + 8
    if value + length > end:
        raise blob.error(offset, f"property value of {length:#x} bytes is cut off")
    if name_offset not in names:
        limit = min(strings[1], name_offset + MAX_PROPERTY_NAME + 1)
        names[name_offset] = blob.name(name_offset, limit, "property")
    name = names[name_offset]
    # Linux stops looking for properties at the first child, so it would not see this one.
    if node.children:
        raise blob.error(offset, f"property {name} of {node.name or '/'} stands behind a child")
    if name in node.properties:
        raise blob.error(offset, f"property {name} of {node.name or '/'} is there twice")
    node.properties[name] = Property(name, blob.data[value : value + length], value)
    return _aligned(value + length)


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3

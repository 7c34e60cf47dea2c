"""A board from a device tree blob: memory nodes, reservations and device windows.

Sources: Devicetree Specification v0.4 (3.4 memory node, 3.5 reserved-memory, 5.3 memory
reservation block).
"""

from collections.abc import Iterator

from ttbr.arch.geometry import PA
from ttbr.boards.board import ADDRESS_LIMIT, Board, Window
from ttbr.boards.buses import Bus, Reader, available, device_windows, is_memory
from ttbr.boards.fdt import Node, Tree, parse
from ttbr.errors import UnreadableError

__all__ = ["read"]


def read(data: bytes, name: str, source: str) -> Board:
    """The board that the device tree blob *data* describes.

    *name* is the board's name, *source* the file's, for the errors. Nodes whose status is not
    ``okay`` are left out with all below them, as is a memory node without device_type ``memory``;
    a note says so where RAM is concerned. `UnreadableError` for a broken blob, RAM or a
    reservation that does not fit its cells, or a root without cells; `InvalidError` for RAM that
    overlaps.
    """
    tree = parse(data, source)
    reader = Reader(source)
    root = reader.bus(tree.root, None)
    memory = [window for node in tree.root.children for window in _memory(reader, node, root)]
    if not memory:
        reader.notes.append("the tree has no RAM: a boot loader fills it in")
    reserved = (*_reservations(reader, tree), *_reserved_nodes(reader, tree.root, root))
    mmio = dict.fromkeys(device_windows(reader, tree.root, root))
    for node in tree.root.children:
        if node.name == "chosen" and "linux,usable-memory-range" in node.properties:
            reader.notes.append("chosen limits the kernel to its linux,usable-memory-range")
    model = tree.root.string("model")
    title = model if model.isprintable() and model else name
    return Board(name, title, tuple(memory), reserved, tuple(mmio), source, tuple(reader.notes))


def _memory(reader: Reader, node: Node, root: Bus) -> Iterator[Window]:
    if not is_memory(node):
        if node.name.split("@")[0] == "memory":
            reader.notes.append(f'{node.name} has no device_type "memory": Linux ignores it')
        return
    if not available(node):
        reader.notes.append(f"{node.name} is left out: its status is not okay")
        return
    if "hotpluggable" in node.properties:
        reader.notes.append(f"{node.name} may be unplugged")
    # linux,usable-memory stands in for reg in the tree of a crash kernel.
    found = node.properties.get("linux,usable-memory") or node.properties.get("reg")
    if found is not None:
        yield from reader.windows(node, found, root)


def _reservations(reader: Reader, tree: Tree) -> Iterator[Window]:
    for start, size in tree.reserved:
        if start + size > ADDRESS_LIMIT:
            raise UnreadableError(
                f"{reader.source}: memory reservation {start:#x}, size {size:#x}: ends above 2^64"
            )
        if size:
            yield Window(PA(start), size, "memory reservation")


def _reserved_nodes(reader: Reader, root_node: Node, root: Bus) -> Iterator[Window]:
    for parent in root_node.children:
        if parent.name != "reserved-memory" or not available(parent):
            continue
        bus = reader.bus(parent, root)
        same = (bus.address_cells, bus.size_cells) == (root.address_cells, root.size_cells)
        if not same or bus.ranges is None:
            # __reserved_mem_check_root() in drivers/of/of_reserved_mem.c
            reader.notes.append(
                "reserved-memory has no ranges or not the root's cells: Linux ignores it"
            )
        for node in filter(available, parent.children):
            found = node.properties.get("reg")
            if found is not None:
                yield from reader.windows(node, found, bus)
            elif "size" in node.properties:
                reader.notes.append(f"{node.name}: reserved at an address chosen while booting")

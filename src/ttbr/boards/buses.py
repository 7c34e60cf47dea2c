"""Addresses in a device tree: cells, `reg`, `ranges`, and the windows of devices.

Sources: Devicetree Specification v0.4 (2.3.4 status, 2.3.5 cells, 2.3.6 reg, 2.3.8 ranges) and the
PCI bus binding to IEEE 1275 (three address cells). Where the specification and Linux differ (the
cells of a node that does not say), Linux is followed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ttbr.arch.geometry import PA
from ttbr.boards.board import ADDRESS_LIMIT, Window
from ttbr.boards.fdt import Node, Property
from ttbr.errors import UnreadableError

__all__ = ["Bus", "Reader", "available", "device_windows", "is_memory"]

MAX_CELLS = 4  # OF_MAX_ADDR_CELLS in Linux
# Rows of `ranges` looked at for one tree: a large real tree needs some ten thousand.
MAX_LOOKUPS = 2_000_000

# Space code, bits 25:24 of the first PCI address cell.
PCI_SPACES = ("PCI configuration", "PCI I/O", "PCI 32-bit memory", "PCI 64-bit memory")
PCI_TYPES = ("pci", "pciex", "ht", "vci")

# Children of the root whose `reg` is not a device's.
NO_DEVICES = ("chosen", "memory", "reserved-memory")


@dataclass(frozen=True, slots=True)
class Bus:
    """How the children of a node are addressed, and how such an address reaches the CPU.

    `ranges` are (child address, parent address, size) rows; an empty tuple is the identity, None
    no way to the CPU. `up` is the bus that the parent addresses belong to, None at the root.
    """

    address_cells: int
    size_cells: int
    ranges: tuple[tuple[int, ...], ...] | None = ()
    up: "Bus | None" = None


@dataclass(slots=True)
class Reader:
    """Cuts property values into numbers; `source` is the file's name for the errors.

    What is left out of the answer is said in `notes`.
    """

    source: str
    notes: list[str] = field(default_factory=list)
    lookups: int = 0

    def error(self, offset: int, what: str) -> UnreadableError:
        """The error for what stands at *offset* of the blob."""
        return UnreadableError(f"{self.source}: offset {offset:#x}: {what}")

    def rows(self, node: Node, found: Property, *cells: int) -> list[tuple[int, ...]]:
        """The value of *found* in *node*, cut into rows of numbers of so many *cells* each."""
        width = 4 * sum(cells)
        if not width or len(found.value) % width:
            what = f"{len(found.value)} bytes are no rows of {' + '.join(map(str, cells))} cells"
            raise self.error(found.offset, f"{found.name} of {node.name}: {what}")
        rows = []
        for start in range(0, len(found.value), width):
            row, at = [], start
            for count in cells:
                row.append(int.from_bytes(found.value[at : at + 4 * count], "big"))
                at += 4 * count
            rows.append(tuple(row))
        return rows

    def windows(self, node: Node, found: Property, bus: Bus) -> Iterator[Window]:
        """The windows of a *found* `reg` that holds CPU addresses; empty rows are left out.

        `UnreadableError` when the value does not fit the cells or a window ends above 2^64.
        """
        for start, size in self.rows(node, found, bus.address_cells, bus.size_cells):
            if start + size > ADDRESS_LIMIT:
                what = f"start {start:#x}, size {size:#x}: ends above 2^64"
                raise self.error(found.offset, f"{found.name} of {node.name}: {what}")
            if size:
                yield Window(PA(start), size, node.name)
            else:
                self.notes.append(f"{node.name}: a window of size 0 is left out")

    def cells(self, node: Node, name: str, inherited: int | None) -> int:
        """``#address-cells`` or ``#size-cells`` of *node*, or the *inherited* value."""
        found = node.properties.get(name)
        if found is None:
            # The specification has a default of 2 and 1; Linux asks the ancestors
            # (of_n_addr_cells) and takes 1 and 1 for the root, so there no answer is right.
            if inherited is None:
                raise self.error(node.offset, f"the root node has no {name}")
            return inherited
        value = int.from_bytes(found.value, "big")
        if len(found.value) != 4 or value > MAX_CELLS:
            raise self.error(found.offset, f"{name} of {node.name or '/'} is not 0 to {MAX_CELLS}")
        return value

    def bus(self, node: Node, up: Bus | None) -> Bus:
        """The bus that *node*, itself addressed on *up*, offers its children."""
        address = self.cells(node, "#address-cells", up.address_cells if up else None)
        size = self.cells(node, "#size-cells", up.size_cells if up else None)
        if up is None:
            return Bus(address, size)
        found = node.properties.get("ranges")
        if found is None:
            return Bus(address, size, None, up)
        rows = self.rows(node, found, address, up.address_cells, size) if found.value else []
        return Bus(address, size, tuple(rows), up)

    def translate(self, bus: Bus, address: int, size: int) -> int | None:
        """The CPU address of *size* bytes at *address* on *bus*, or None where it has none."""
        while bus.up is not None:
            if bus.ranges is None:
                return None
            self.lookups += len(bus.ranges)
            if self.lookups > MAX_LOOKUPS:
                raise UnreadableError(f"{self.source}: too many rows of ranges to translate")
            for child, parent, length in bus.ranges:
                if child <= address and address + size <= child + length:
                    address += parent - child
                    break
            else:
                if bus.ranges:
                    return None
            bus = bus.up
        return address if address + size <= ADDRESS_LIMIT else None


def available(node: Node) -> bool:
    """Whether the node's status lets it be used (``okay``, Linux's ``ok``, or no status)."""
    return "status" not in node.properties or node.string("status") in ("okay", "ok")


def is_memory(node: Node) -> bool:
    """Whether the node is RAM: by device_type, which is what Linux goes by."""
    return node.string("device_type") == "memory"


def device_windows(reader: Reader, root_node: Node, root: Bus) -> Iterator[Window]:
    """The `reg` windows of every available device, and what a PCI host forwards, for the CPU.

    A device that no `ranges` leads to (a CPU, an I2C chip) has none. One that is broken, or that a
    `ranges` should carry but does not, is left out with a note.
    """
    queue = [
        (node, root)
        for node in reversed(root_node.children)
        if node.name.split("@")[0] not in NO_DEVICES and not is_memory(node)
    ]
    while queue:
        node, bus = queue.pop()
        if not available(node):
            continue
        if is_memory(node):
            reader.notes.append(f"{node.name} is left out: RAM that is no child of the root")
            continue
        try:
            yield from _registers(reader, node, bus)
            if _is_pci(node):
                # A `reg` below is a PCI configuration address.
                yield from _pci_windows(reader, node, bus)
            elif node.children:
                below = reader.bus(node, bus)
                queue += [(child, below) for child in reversed(node.children)]
        except UnreadableError as error:
            if reader.lookups > MAX_LOOKUPS:
                raise
            reader.notes.append(f"{node.name} is left out: {error}")


def _registers(reader: Reader, node: Node, bus: Bus) -> Iterator[Window]:
    found = node.properties.get("reg")
    if found is None or bus.ranges is None or not bus.size_cells:
        return
    for start, size in reader.rows(node, found, bus.address_cells, bus.size_cells):
        yield from _window(reader, bus, start, size, node.name)


def _is_pci(node: Node) -> bool:
    # As of_bus_pci_match of Linux.
    return node.string("device_type") in PCI_TYPES or node.name.split("@")[0] == "pcie"


def _pci_windows(reader: Reader, node: Node, bus: Bus) -> Iterator[Window]:
    found = node.properties.get("ranges")
    if found is None or not found.value or bus.ranges is None:
        return
    address = reader.cells(node, "#address-cells", bus.address_cells)
    size = reader.cells(node, "#size-cells", bus.size_cells)
    if address != 3:
        raise reader.error(found.offset, f"a PCI bus has 3 address cells, {node.name} {address}")
    for child, parent, length in reader.rows(node, found, address, bus.address_cells, size):
        space = PCI_SPACES[child >> 88 & 0b11]
        yield from _window(reader, bus, parent, length, f"{node.name} {space}")


def _window(reader: Reader, bus: Bus, start: int, size: int, name: str) -> Iterator[Window]:
    if not size:
        return
    address = reader.translate(bus, start, size)
    if address is not None:
        yield Window(PA(address), size, name)
    elif _carried(bus):
        reader.notes.append(f"{name}: {start:#x}, size {size:#x}, is in no ranges, left out")


def _carried(bus: Bus) -> bool:
    """Whether every bus up to the root has a `ranges`."""
    while bus.up is not None:
        if bus.ranges is None:
            return False
        bus = bus.up
    return True

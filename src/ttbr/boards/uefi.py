"""A board from the UEFI memory map in a kernel log (``efi=debug``).

Two forms are printed: arm64's own ``efi:   0x...-0x... [type|attributes]`` (reserve_regions() in
drivers/firmware/efi/efi-init.c) and ``efi: mem00: [type|attributes] range=[0x...-0x...]``
(efi_print_memmap()), whose range excluded its end, written ``)``, in old kernels. Which descriptors
are RAM, and which RAM must not be mapped, is decided as reserve_regions() does.
"""

import re

from ttbr.arch.geometry import PA
from ttbr.boards.board import ADDRESS_LIMIT, Board, Window
from ttbr.errors import UnreadableError

__all__ = ["looks_like", "read"]

# Before 4.0 the arm64 lines had no "efi:".
ENTRY = re.compile(
    r"(?:efi: +(?P<numbered>mem(?P<number>\d{1,6}): .*)"
    r"|(?:efi:|\]|^) +(?P<plain>0x[0-9a-f]{6,}-0x[0-9a-f]{6,} +\[[A-Z].*))"
)
DESCRIPTOR = re.compile(r"\[(?P<type>[^|\]]*[^|\] ]) *\|(?P<attributes>[^\]]*)\]")
OLD_DESCRIPTOR = re.compile(r"type=(?P<type>\d{1,9}), attr=(?P<attributes>0x[0-9a-f]{1,16})")
RANGE = re.compile(r"0x(?P<start>[0-9a-f]{1,16})-0x(?P<last>[0-9a-f]{1,16})(?P<end>[\])]|(?= +\[))")

# Memory types of the UEFI specification, 7.2 (EFI_BOOT_SERVICES.AllocatePages), by number; the
# names as kernels have printed them.
TYPES: tuple[tuple[str, ...], ...] = (
    ("Reserved",),
    ("Loader Code",),
    ("Loader Data",),
    ("Boot Code",),
    ("Boot Data",),
    ("Runtime Code",),
    ("Runtime Data",),
    ("Conventional Memory", "Conventional"),
    ("Unusable Memory", "Unusable"),
    ("ACPI Reclaim Memory", "ACPI Reclaim"),
    ("ACPI Memory NVS", "ACPI Mem NVS"),
    ("Memory Mapped I/O", "MMIO"),
    ("MMIO Port Space", "MMIO Port"),
    ("PAL Code",),
    ("Persistent Memory", "Persistent"),
    ("Unaccepted",),
)
NUMBERS = {name: number for number, names in enumerate(TYPES) for name in names}
# is_usable_memory() but for ACPI reclaim, which reserve_regions() reserves.
FREE = frozenset((1, 2, 3, 4, 7, 14))
DEVICE = frozenset((11, 12))

# EFI_MEMORY_* attributes, UEFI specification 7.2 (GetMemoryMap).
ATTRIBUTES = {"UC": 1 << 0, "WC": 1 << 1, "WT": 1 << 2, "WB": 1 << 3, "SP": 1 << 18}
CACHEABLE = ATTRIBUTES["WC"] | ATTRIBUTES["WT"] | ATTRIBUTES["WB"]  # is_memory()


def looks_like(text: str) -> bool:
    """Whether any line prints a descriptor of the map."""
    return any(ENTRY.search(line) for line in text.split("\n"))


def read(text: str, name: str, source: str) -> Board:
    """The board whose memory map the kernel log *text* prints; other lines are passed over.

    RAM is what is cacheable; of it, all that is not free for the kernel (run-time services, ACPI
    tables, reserved, special purpose) is reserved too. `UnreadableError` with the line number for a
    descriptor that does not read, an unknown memory type, or a number that is missing from the log.
    """
    memory: list[Window] = []
    reserved: list[Window] = []
    mmio: list[Window] = []
    expected = 0
    for line_number, line in enumerate(text.split("\n"), 1):
        entry = ENTRY.search(line)
        if entry is None:
            continue
        where = f"{source}: line {line_number}"
        if entry["number"] is not None:
            if int(entry["number"]) != expected:
                raise UnreadableError(
                    f"{where}: mem{entry['number']} follows, mem{expected:02} is missing"
                )
            expected += 1
        kind, attributes, window = _descriptor(entry["numbered"] or entry["plain"], where)
        if kind in DEVICE:
            mmio.append(window)
            continue
        if attributes & CACHEABLE:
            memory.append(window)
        free = kind in FREE and attributes & ATTRIBUTES["WB"]
        if not free or attributes & ATTRIBUTES["SP"]:
            reserved.append(window)
    if not (memory or reserved or mmio):
        raise UnreadableError(f"{source}: no UEFI memory map, boot the kernel with efi=debug")
    return Board(name, name, tuple(memory), tuple(reserved), tuple(mmio), source)


def _descriptor(entry: str, where: str) -> tuple[int, int, Window]:
    """Memory type, attributes and window of one printed descriptor."""
    unreadable = UnreadableError(f"{where}: {entry[:60]!r} is not a descriptor of a memory map")
    span = RANGE.search(entry)
    if span is None:
        raise unreadable
    if old := OLD_DESCRIPTOR.search(entry):
        kind, attributes = int(old["type"]), int(old["attributes"], 16)
    elif found := DESCRIPTOR.search(entry):
        kind, attributes = _kind(found["type"], where), _attributes(found["attributes"])
    else:
        raise unreadable
    if kind >= len(TYPES):
        raise UnreadableError(f"{where}: memory type {kind} is not known")
    start, end = int(span["start"], 16), int(span["last"], 16) + (span["end"] != ")")
    if end <= start or end > ADDRESS_LIMIT:
        raise UnreadableError(f"{where}: {span[0]} is not a range")
    return kind, attributes, Window(PA(start), end - start, TYPES[kind][0])


def _kind(text: str, where: str) -> int:
    found = NUMBERS.get(text)
    if found is None:
        raise UnreadableError(f"{where}: memory type {text[:40]!r} is not known")
    return found


def _attributes(text: str) -> int:
    """The attribute word of ``RUN|  |WB|WT|WC|UC``, or of ``attr=0x...`` for unknown bits."""
    word = 0
    for mark in text.split("|"):
        mark = mark.strip()
        if mark.startswith("attr=0x"):
            word |= int(mark[5:], 16)
        word |= ATTRIBUTES.get(mark, 0)
    return word

"""A small stage 1 walker of its own, and the TLB entries that a walk may leave."""

from collections.abc import Callable

from concrete_registers import Config, Half

__all__ = [
    "Copy",
    "Leaf",
    "Part",
    "Path",
    "conflict",
    "memory_type",
    "start_of",
    "walk",
    "whole_group",
]

_BLOCKS = {
    (12, 0): (1, 2),
    (12, 1): (0, 1, 2),
    (14, 0): (2,),
    (14, 1): (1, 2),
    (16, 0): (2,),
    (16, 1): (1, 2),
}
_CONTIGUOUS = {
    (12, 1): 16,
    (12, 2): 16,
    (12, 3): 16,
    (14, 2): 32,
    (14, 3): 128,
    (16, 2): 32,
    (16, 3): 32,
}
_SIZE_BITS = (1 << 48) - 1

Path = tuple[tuple[int, int], ...]
"""The descriptors that a walk has read: location and value."""


class Part:
    """A walk cache entry: for VAs in its span, go on at `level` in `table`."""

    __slots__ = (
        "asid",
        "doom",
        "first",
        "hier",
        "junk",
        "key",
        "level",
        "path",
        "span",
        "table",
        "tg",
    )

    def __init__(
        self,
        asid: int,
        first: int,
        span: int,
        level: int,
        table: int,
        tg: int,
        hier: int,
        path: Path,
    ) -> None:
        self.asid, self.first, self.span = asid, first, span
        self.level, self.table, self.tg, self.hier = level, table, tg, hier
        self.key = (asid, first, span, level, table, tg, hier)
        self.path = path
        self.doom = 0
        self.junk = False

    def __str__(self) -> str:
        return f"partial walk of {self.first:#x}+{self.span:#x} -> level {self.level} at {self.table:#x}"


class Copy:
    """A copy of a descriptor by its address (R_BKKRB)."""

    __slots__ = ("asid", "doom", "location", "value")

    def __init__(self, asid: int, location: int, value: int) -> None:
        self.asid, self.location, self.value = asid, location, value
        self.doom = 0


class Leaf:
    """A cached translation. `shape` is the size that the descriptor says, `span` what is cached."""

    __slots__ = (
        "asid",
        "byte",
        "doom",
        "first",
        "flat",
        "index",
        "junk",
        "key",
        "level",
        "nt",
        "pa",
        "path",
        "sh",
        "shape",
        "span",
        "tg",
        "todo",
        "user",
        "w",
        "wxn",
        "x",
    )

    def __init__(self) -> None:
        self.asid: int | None = None
        self.first = self.span = self.pa = self.shape = self.tg = self.level = 0
        self.index = self.byte = self.sh = self.wxn = self.nt = 0
        self.w = self.x = True
        self.user = False
        self.flat = self.junk = False
        self.doom = 0
        self.todo = 0
        self.key: tuple[object, ...] = ()
        self.path: Path = ()

    def __str__(self) -> str:
        owner = "global" if self.asid is None else f"ASID {self.asid}"
        kind = memory_type(self.byte)
        return f"{owner} leaf {self.first:#x}+{self.span:#x} -> {self.pa:#x} {kind}"

    def finish(self) -> "Leaf":
        self.key = (
            self.asid,
            self.first,
            self.span,
            self.pa,
            self.shape,
            self.tg,
            self.level,
            self.byte,
            self.index,
            self.sh,
            self.w,
            self.x,
            self.user,
            self.wxn,
        )
        return self


def memory_type(byte: int) -> str:
    """WB, NC, DEV or the MAIR byte: what the proof distinguishes."""
    if byte & 0xF0 == 0:
        return "DEV"
    return {0xFF: "WB", 0x44: "NC"}.get(byte, hex(byte))


def start_of(config: Config, half: Half) -> tuple[int, int, int] | None:
    """Level, table and index width of the root; None when its address is out of size."""
    if half.base >> config.pabits or (half.base >> 48 and half.tg != 16 and not config.ds):
        return None
    return half.start, half.base, half.width


def _address(descriptor: int, shift: int, tg: int, config: Config) -> int:
    if tg == 16:
        high = (descriptor >> 12 & 15) << 48 if config.pabits == 52 else 0
        return descriptor & _SIZE_BITS & -(1 << shift) | high
    if config.ds:
        low = descriptor & ((1 << 50) - 1) & -(1 << shift)
        return low | (descriptor >> 8 & 3) << 50
    return descriptor & _SIZE_BITS & -(1 << shift)


def walk(
    config: Config,
    half: Half,
    va: int,
    at: tuple[int, int, int],
    tg: int,
    hier: int,
    read: Callable[[int], int | None],
    parts: list[Part],
    path: Path = (),
) -> Leaf | str:
    """Walk *va* from level, table, width *at*; give the leaf, or FAULT or JUNK-WALK.

    Partial entries go to *parts* also when the walk faults later. *hier* accumulates the table
    attributes: 1 no EL0, 2 read-only, 4 execute-never. *read* gives None for memory that is not a
    table.
    """
    level, table, width = at
    stride = tg - 3
    lpa = config.ds if tg != 16 else int(config.pabits == 52)
    size_limit = config.pabits if lpa else min(config.pabits, 48)
    while True:
        shift = tg + (3 - level) * stride
        location = table + 8 * (va >> shift & (1 << width) - 1)
        descriptor = read(location)
        if descriptor is None:
            return "JUNK-WALK"
        path = (*path, (location, descriptor))
        low = descriptor & 3
        if low == 3 and level < 3:
            table = _address(descriptor, tg, tg, config)
            if table >> size_limit:
                return "FAULT"
            if not half.hpd:
                xn = 59 if config.two else 60
                hier |= descriptor >> 61 & 3 | (descriptor >> xn & 1) << 2
            level += 1
            first = va & -(1 << shift)
            parts.append(Part(config.asid, first, 1 << shift, level, table, tg, hier, path))
            width = stride
            continue
        if low != 3 and (low != 1 or level not in _BLOCKS[tg, lpa]):
            return "FAULT"
        return _leaf(config, half, va, level, tg, shift, hier, descriptor, size_limit, path)


def _leaf(
    config: Config,
    half: Half,
    va: int,
    level: int,
    tg: int,
    shift: int,
    hier: int,
    descriptor: int,
    size_limit: int,
    path: Path,
) -> Leaf | str:
    pa = _address(descriptor, shift, tg, config)
    if pa >> size_limit or not (descriptor >> 10 & 1 or config.ha):
        return "FAULT"
    leaf = Leaf()
    leaf.asid = config.asid if config.two and descriptor >> 11 & 1 else None
    leaf.first, leaf.span, leaf.pa = va & -(1 << shift), 1 << shift, pa
    leaf.tg, leaf.level = tg, level
    group = _CONTIGUOUS.get((tg, level), 1) if descriptor >> 52 & 1 else 1
    leaf.shape = group << shift
    leaf.nt = descriptor >> 16 & 1 if level < 3 else 0
    leaf.index = descriptor >> 2 & 7
    leaf.byte = config.mair >> 8 * leaf.index & 0xFF
    leaf.sh = half.sh if config.ds and tg != 16 else descriptor >> 8 & 3
    leaf.w = not (descriptor >> 7 & 1 or hier & 2)
    if config.two:
        leaf.user = bool(descriptor >> 6 & 1 and not hier & 1)
        leaf.x = not (descriptor >> 53 & 1 or hier & 4 or (leaf.user and leaf.w))
    else:
        leaf.x = not (descriptor >> 54 & 1 or hier & 4)
    leaf.wxn = config.wxn
    leaf.path = path
    return leaf


def whole_group(leaf: Leaf) -> Leaf:
    """The entry that covers the whole contiguous group of *leaf*."""
    whole = Leaf()
    for name in (
        "asid",
        "tg",
        "level",
        "shape",
        "nt",
        "index",
        "byte",
        "sh",
        "w",
        "x",
        "wxn",
        "path",
    ):
        setattr(whole, name, getattr(leaf, name))
    whole.junk, whole.doom = leaf.junk, leaf.doom
    whole.span = leaf.shape
    whole.first, whole.pa = leaf.first & -leaf.shape, leaf.pa & -leaf.shape
    whole.todo = (1 << leaf.shape // leaf.span) - 1
    return whole


def conflict(a: Leaf, b: Leaf, bbm: str) -> str | None:
    """What two entries for one VA may do to a lookup (R_WHZWS lifted to entries).

    CONFLICT, CONFLICT-ABORT, or None when any of them may be used.
    """
    if a is b:
        return None
    same_type = memory_type(a.byte) == memory_type(b.byte)
    same_sh = a.sh == b.sh or memory_type(a.byte) == "DEV"
    same_pa = a.pa - a.first == b.pa - b.first
    if not (same_type and same_sh and same_pa) or (a.asid is None) != (b.asid is None):
        return "CONFLICT"
    if a.shape == b.shape:
        return None
    if bbm == "0" or a.tg != b.tg:
        return "CONFLICT"
    if bbm == "2na":
        return None
    if bbm == "1" and not (a.nt or b.nt or (a.tg, a.level) == (b.tg, b.level)):
        return "CONFLICT"
    return "CONFLICT-ABORT"

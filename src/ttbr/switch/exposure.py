"""The exposure lint: what speculation may reach, although no access of the trace goes there.

For every root with every register values under which the trace lets the hardware walk, the whole
input range is listed: table pointers into memory that is not a table, Normal mappings of Device
memory, executable Device mappings, tables that a writable mapping reaches. A walk of junk reads
arbitrary descriptors; with TCR.HA=1 it may even set bit 10 in words that are none (R_LHQRX).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ttbr.arch.attributes import PW, PX, UW, UX, is_device
from ttbr.arch.bits import ones
from ttbr.arch.descriptors import BLOCK, PAGE, TABLE, descriptor_type, output_address
from ttbr.switch.cells import configs_in_play
from ttbr.switch.configs import ROWS, Config, Decoder
from ttbr.switch.saturate import make_leaf
from ttbr.switch.timeline import Timeline
from ttbr.switch.tlb import Leaf

__all__ = ["EXPOSURES", "Exposure", "exposure"]

JUNK, JUNK_DEVICE, JUNK_WRITTEN = "junk", "junk-device", "junk-written"
NORMAL_OVER_DEVICE, EXECUTABLE_DEVICE = "normal-over-device", "executable-device"
WRITABLE_TABLE = "writable-table"

EXPOSURES: dict[str, str] = {
    JUNK: "a table descriptor points to memory that is not a table: arbitrary descriptors (D8.3)",
    JUNK_DEVICE: "such a pointer leads to Device memory: a walk may read it (K1.2.10)",
    JUNK_WRITTEN: "such a pointer with TCR.HA=1: speculation may set bit 10 there (R_LHQRX)",
    NORMAL_OVER_DEVICE: "Device memory is mapped as Normal: speculative accesses (K1.2.10)",
    EXECUTABLE_DEVICE: "a Device mapping is executable: it must be execute-never (B2.10)",
    WRITABLE_TABLE: "a writable mapping reaches translation tables",
}


class Exposure(NamedTuple):
    """Addresses from *va*, *size* bytes (one descriptor, or neighbours alike), under *config*.

    `target` is the physical address that the first descriptor, at `location`, leads to.
    """

    kind: str
    regime: str
    va: int
    size: int
    target: int
    location: int
    level: int
    config: Config


class _Extents:
    """Sorted (address, size) extents, to ask whether one meets a range."""

    def __init__(self, extents: Iterable[tuple[int, int]]) -> None:
        self.items = sorted(extents)
        self.starts = [address for address, _ in self.items]

    def meets(self, address: int, size: int) -> bool:
        index = bisect_right(self.starts, address + size - 1) - 1
        return index >= 0 and sum(self.items[index]) > address


def exposure(line: Timeline) -> list[Exposure]:
    """Every exposure of a trace, each table and level looked at once for each way to decode it.

    What concerns Device memory is found where `Problem.devices` says where that is.
    """
    found: list[Exposure] = []
    devices = _Extents(line.problem.devices)
    for regime in line.intents:
        for upper in range(len(ROWS[regime].halves)):
            seen: set[tuple[Decoder, int, int, int]] = set()
            for config in configs_in_play(line, regime, upper):
                if not config.environment:
                    scan = _Scan(line, regime, config, devices, seen)
                    found += scan.root()
    return found


class _Scan:
    """The walk of one config's whole range."""

    def __init__(
        self,
        line: Timeline,
        regime: str,
        config: Config,
        device: _Extents,
        seen: set[tuple[Decoder, int, int, int]],
    ) -> None:
        assert config.decoder is not None
        self.line, self.regime, self.config, self.device, self.seen = (
            line,
            regime,
            config,
            device,
            seen,
        )
        self.decoder = config.decoder
        self.tables = _Extents(line.problem.tables)

    def root(self) -> Iterator[Exposure]:
        p = self.config.p
        assert p is not None
        if not self.config.epd and not p.root >> p.output_bits:
            first = p.levels[0]
            yield from self.table(first.level, p.root, first.mask, p.base, 0)

    def table(
        self, level: int, table: int, mask: int, va: int, hierarchical: int
    ) -> Iterator[Exposure]:
        key = (self.decoder, level, table, mask)
        if key in self.seen:
            return
        self.seen.add(key)
        shift = self.decoder.shifts[level]
        pending: Exposure | None = None
        for index, word in enumerate(self.line.tables.words(table, mask + 1)):
            at = va + (index << shift) & ones(64)
            location = table + 8 * index
            for value in self.values(location, word):
                for item in self.entry(level, location, value, at, hierarchical):
                    joined = _join(pending, item)
                    if joined is None and pending is not None:
                        yield pending
                    pending = joined or item
                yield from self.below(level, value, at, hierarchical)
        if pending is not None:
            yield pending

    def values(self, location: int, word: int | None) -> set[int]:
        """Every value that the location has at some point of the trace."""
        if location not in self.line.stored:
            return set() if word is None else {word}
        shown = (p.visible[self.regime] for p in self.line.points)
        return {value for visible in shown for value in visible.get(location, (word or 0,))}

    def below(self, level: int, value: int, va: int, hierarchical: int) -> Iterator[Exposure]:
        d = self.decoder
        if descriptor_type(value, level, d.granule, d.wide) == TABLE:
            target = output_address(value, d.p.form, d.granule.shift)
            if self.line.tables.is_table(target):
                yield from self.table(level + 1, target, d.mask, va, hierarchical | value)

    def entry(
        self, level: int, location: int, value: int, va: int, hierarchical: int
    ) -> Iterator[Exposure]:
        """What one descriptor exposes."""
        d = self.decoder
        kind = descriptor_type(value, level, d.granule, d.wide)
        size = 1 << d.shifts[level]

        def make(what: str, target: int) -> Exposure:
            return Exposure(what, self.regime, va, size, target, location, level, self.config)

        if kind == TABLE:
            target = output_address(value, d.p.form, d.granule.shift)
            if target >> d.p.output_bits or self.line.tables.is_table(target):
                return
            if self.device.meets(target, d.granule.size):
                yield make(JUNK_DEVICE, target)
            else:
                yield make(JUNK_WRITTEN if d.p.ha else JUNK, target)
        elif kind in (BLOCK, PAGE):
            leaf = make_leaf(va, level, location, value, d, self.config, hierarchical)
            if isinstance(leaf, Leaf):
                for what in self._leaf(leaf):
                    yield make(what, leaf.translate(va))

    def _leaf(self, leaf: Leaf) -> Iterator[str]:
        output = leaf.translate(leaf.va)
        if is_device(leaf.attr):
            if leaf.permissions & (PX | UX):
                yield EXECUTABLE_DEVICE
        elif self.device.meets(output, leaf.size):
            yield NORMAL_OVER_DEVICE
        if leaf.permissions & (PW | UW) and self.tables.meets(output, leaf.size):
            yield WRITABLE_TABLE


def _join(left: Exposure | None, right: Exposure) -> Exposure | None:
    """One interval of two neighbours of a kind."""
    if left is None or left.kind != right.kind or left.va + left.size != right.va:
        return None
    return left._replace(size=left.size + right.size)

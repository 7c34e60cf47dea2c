"""The one hardware step of the machine: everything that walks may add to the TLB, for one address.

`Walker.close` is the least fixpoint. A walk starts at the root of a config, or continues at any
partial walk that may be cached, under any register values that may be in use: with what granule,
T0SZ or tables the partial walk was made does not count (R_NWYRD). What a descriptor is depends on
the level at which it is read; `ttbr.arch.descriptors` decides it, as for `ttbr.walk`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ttbr.arch.attributes import reported_shareability
from ttbr.arch.descriptors import INVALID, RESERVED, TABLE, descriptor_type, output_address
from ttbr.errors import UnsupportedError
from ttbr.switch.configs import Config, Decoder
from ttbr.switch.descriptors import TableMemory
from ttbr.switch.tlb import GLOBAL, JUNK, Copy, Entry, Leaf, Part
from ttbr.walk.translate import HIERARCHICAL, leaf_permissions

__all__ = ["Entries", "Note", "Origin", "Read", "Stop", "Walker", "make_leaf"]

_CONTIGUOUS, _NG, _AF = 1 << 52, 1 << 11, 1 << 10
_DBM, _READ_ONLY = 1 << 51, 1 << 7


class Origin(NamedTuple):
    """How an entry came to be: at point `point`, by a walk under `config` that went on from
    `parent` (None: from the root), or was there before (`config` None). `junk` is the address that
    was read where no table is."""

    point: int
    config: Config | None
    parent: Part | None
    junk: int | None = None


Entries = dict[Entry, Origin]
"""The may-present entries that concern one address. Never changed in place once it is shared."""


class Stop(NamedTuple):
    """A walk that ended without a translation: `kind` is ``fault`` or ``junk``.

    `reason` is in words; `location` and `value` are the descriptor's, None where none was read.
    """

    kind: str
    reason: str
    level: int
    config: Config
    parent: Part | None
    location: int | None = None
    value: int | None = None


class Read(NamedTuple):
    """A descriptor read at `level` for `va`: where a store to it would act. It may be that of
    another member of the address's contiguous group."""

    va: int
    level: int
    decoder: Decoder
    config: Config
    hierarchical: int


class Note:
    """What a fixpoint met besides entries: walks that stopped, and reads of stored-to locations."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []
        self.reads: dict[int, list[Read]] = {}


class _Work(NamedTuple):
    """A table to read: `mask` is of the index."""

    level: int
    table: int
    mask: int
    hierarchical: int
    decoder: Decoder
    config: Config
    parent: Part | None


class Walker:
    """The walks of one address in one regime. `stored` are the locations that the trace writes."""

    def __init__(
        self, va: int, tables: TableMemory, stored: frozenset[int], *, copies: bool
    ) -> None:
        self.va, self.tables, self.stored = va, tables, stored
        self.pages = frozenset(location >> 12 for location in stored)
        self.copies = copies and bool(stored)
        self.touched: set[int] = set()

    def close(
        self,
        entries: Entries,
        configs: Iterable[Config],
        visible: Mapping[int, tuple[int, ...]],
        point: int,
        note: Note | None = None,
    ) -> Entries:
        """*entries* and all that walks under *configs* may add; the same object if that is nothing.

        With *note*, also collects how walks may stop and what they read.
        """
        contexts: dict[int | None, dict[Decoder, Config]] = {}
        work: list[_Work] = []
        for c in configs:
            if not c.enabled:
                continue
            why = c.refusal(self.va)
            if why or c.p is None or c.decoder is None:
                if note is not None and not c.environment:
                    note.stops.append(Stop("fault", why, 0, c, None))
                continue
            contexts.setdefault(c.asid, {}).setdefault(c.decoder, c)
            self._start(c, work, note)
        if not contexts:
            return entries
        run = _Run(self, entries, contexts, visible, point, note)
        for part in [e for e in entries if isinstance(e, Part)]:
            run.resume(part, work)
        run.go(work)
        return run.entries

    def _start(self, c: Config, work: list[_Work], note: Note | None) -> None:
        """The walk from the root; R_VPBBF: no walk from a base beyond the output size."""
        p = c.p
        assert p is not None
        assert c.decoder is not None
        why = ""
        if c.epd:
            why = f"walks with {p.name} are disabled (EPD=1)"
        elif p.root >> p.output_bits:
            why = f"root {p.root:#x} is beyond {p.output_bits} bits"
        if not why:
            first = p.levels[0]
            work.append(_Work(first.level, p.root, first.mask, 0, c.decoder, c, None))
        elif note is not None and not c.environment:
            note.stops.append(Stop("fault", why, 0, c, None))


class _Run:
    """One fixpoint. `entries` is a copy as soon as something is added."""

    def __init__(
        self,
        walker: Walker,
        entries: Entries,
        contexts: dict[int | None, dict[Decoder, Config]],
        visible: Mapping[int, tuple[int, ...]],
        point: int,
        note: Note | None,
    ) -> None:
        self.walker, self.va = walker, walker.va
        self.entries, self._shared = entries, True
        self.contexts, self.visible, self.point, self.note = contexts, visible, point, note
        self.copied: dict[int, list[Copy]] = {}
        if walker.copies:
            for entry in entries:
                if isinstance(entry, Copy):
                    self.copied.setdefault(entry.location, []).append(entry)

    def add(
        self, entry: Entry, config: Config, parent: Part | None, junk: int | None = None
    ) -> bool:
        if entry in self.entries:
            return False
        if self._shared:
            self.entries, self._shared = dict(self.entries), False
        self.entries[entry] = Origin(self.point, config, parent, junk)
        return True

    def resume(self, part: Part, work: list[_Work]) -> None:
        """Continue *part* under every config of its ASID, with its own granule and theirs."""
        tags = [part.tag] if part.tag is not GLOBAL else list(self.contexts)
        for tag in tags:
            for decoder, config in self.contexts.get(tag, {}).items():
                for d in {decoder, decoder.variant(part.shift)}:
                    work.append(  # noqa: PERF401
                        _Work(part.level, part.table, d.mask, part.hierarchical, d, config, part)
                    )

    def go(self, work: list[_Work]) -> None:
        seen = set()
        while work:
            item = work.pop()
            key = (
                item.level,
                item.table,
                item.mask,
                item.hierarchical,
                item.decoder,
                item.config.asid,
            )
            if key not in seen:
                seen.add(key)
                self.read(item, work)

    def values(self, location: int, config: Config) -> Iterator[int | None]:
        """What a walk may read at *location*: what memory shows, and copies by address."""
        if location not in self.walker.stored:
            yield self.walker.tables[location]
            return
        self.walker.touched.add(location)
        shown = self.visible.get(location)
        if shown is None:
            shown = (self.walker.tables[location] or 0,)
        yield from shown
        for copy in self.copied.get(location, ()):
            if copy.value not in shown and copy.tag in (GLOBAL, config.asid):
                yield copy.value

    def read(self, item: _Work, work: list[_Work]) -> None:
        """Read the descriptor for the address and act on each value that it may have."""
        decoder, level = item.decoder, item.level
        shift = decoder.shifts[level]
        location = item.table + (self.va >> shift & item.mask) * 8
        self.reads(item, self.va, location)
        for value in self.values(location, item.config):
            if value is None:
                self.stop("junk", "no table there", item, location, None)
                self.add(JUNK, item.config, item.parent, location)
                continue
            kind = descriptor_type(value, level, decoder.granule, decoder.wide)
            if kind in (INVALID, RESERVED):
                self.stop("fault", f"{kind} descriptor", item, location, value)
            elif kind == TABLE:
                self.table(item, shift, location, value, work)
            else:
                self.leaf(item, location, value)
        if level in decoder.contiguous:
            self.group(item, shift)

    def reads(self, item: _Work, va: int, location: int) -> None:
        if self.note is not None and location in self.walker.stored:
            read = Read(va, item.level, item.decoder, item.config, item.hierarchical)
            self.note.reads.setdefault(location, []).append(read)

    def stop(self, kind: str, reason: str, item: _Work, location: int, value: int | None) -> None:
        if self.note is not None and not item.config.environment:
            self.note.stops.append(
                Stop(kind, reason, item.level, item.config, item.parent, location, value)
            )

    def copy(self, item: _Work, location: int, value: int) -> None:
        if self.walker.copies and location in self.walker.stored:
            self.add(Copy(item.config.asid, location, value), item.config, item.parent)

    def table(self, item: _Work, shift: int, location: int, value: int, work: list[_Work]) -> None:
        p, decoder = item.decoder.p, item.decoder
        target = output_address(value, p.form, decoder.granule.shift)
        if target >> p.output_bits:
            self.stop(
                "fault", f"table {target:#x} is beyond {p.output_bits} bits", item, location, value
            )
            return
        part = Part(
            item.config.asid,
            self.va >> shift << shift,
            1 << shift,
            item.level + 1,
            target,
            decoder.granule.shift,
            (item.hierarchical | value) & HIERARCHICAL,
            value,
            location,
        )
        self.copy(item, location, value)
        if self.add(part, item.config, item.parent):
            self.resume(part, work)

    def leaf(self, item: _Work, location: int, value: int) -> None:
        made = make_leaf(
            self.va, item.level, location, value, item.decoder, item.config, item.hierarchical
        )
        if isinstance(made, str):
            self.stop("fault", made, item, location, value)
            return
        self.copy(item, location, value)
        self.add(made, item.config, item.parent)

    def group(self, item: _Work, shift: int) -> None:
        """Leaves of the other members of the address's contiguous group, which may cover it."""
        decoder, level = item.decoder, item.level
        table_size = (item.mask + 1) * 8
        pages = range(item.table >> 12, (item.table + table_size - 1 >> 12) + 1)
        stored = not self.walker.pages.isdisjoint(pages)
        if not stored and not self.walker.tables.may_be_contiguous(item.table, table_size):
            return
        count = decoder.contiguous[level]
        index = self.va >> shift & item.mask
        first = index & ~(count - 1)
        for member in range(first, min(first + count, item.mask + 1)):
            location = item.table + member * 8
            if member == index:
                continue
            va = self.va + ((member - index) << shift)
            self.reads(item, va, location)
            for value in self.values(location, item.config):
                if value is None or not value & _CONTIGUOUS:
                    continue
                kind = descriptor_type(value, level, decoder.granule, decoder.wide)
                if kind in (INVALID, RESERVED, TABLE):
                    continue
                made = make_leaf(
                    va, level, location, value, decoder, item.config, item.hierarchical
                )
                if isinstance(made, Leaf):
                    self.copy(item, location, value)
                    self.add(made, item.config, item.parent)


def make_leaf(
    va: int,
    level: int,
    location: int,
    value: int,
    decoder: Decoder,
    config: Config,
    hierarchical: int,
) -> Leaf | str:
    """The entry that a block or page descriptor makes for *va*, or why it faults (R_XCLRD: then
    nothing is cached). `UnsupportedError` where hardware may write the descriptor (dirty state)."""
    p, shift = decoder.p, decoder.shifts[level]
    base = output_address(value, p.form, shift)
    if base >> p.output_bits:
        return f"output {base:#x} is beyond {p.output_bits} bits"
    if not (value & _AF or p.ha):
        return "AF=0 and HA=0"
    if p.hd and value & _DBM and value & _READ_ONLY:
        raise UnsupportedError(
            f"the descriptor {value:#x} at {location:#x} has DBM=1 while TCR_ELx.HD=1: that "
            "hardware makes it writable is not modelled"
        )
    size = 1 << shift
    own = va & -size
    first, span, output = own, size, base
    if value & _CONTIGUOUS and level in decoder.contiguous:
        span = size * decoder.contiguous[level]
        first, output = own & -span, base & -span
    attr = p.mair >> (value >> 2 & 7) * 8 & 0xFF
    sh = value >> 8 & 3 if p.sh is None else p.sh
    hierarchical = 0 if p.hpd else hierarchical & HIERARCHICAL
    return Leaf(
        config.asid if value & _NG and config.asid is not None else GLOBAL,
        own,
        size,
        first,
        span,
        output,
        level,
        decoder.granule.shift,
        attr,
        reported_shareability(attr, sh),
        leaf_permissions(p, value, hierarchical),
        value,
        hierarchical,
        location,
    )

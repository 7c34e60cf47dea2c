"""Break-before-make: a store that replaces a valid descriptor which may still be cached.

R_WHZWS lists the changes that need a break (an invalid descriptor, its DSB, a TLBI and the DSB of
that) in between; R_DDMVT is the sequence. So do the permissions in table descriptors (I_YQWJF),
unlike those of leaves. The lint looks at the descriptor, so it also sees what no
access of the trace notices.
"""

from collections.abc import Iterator
from itertools import pairwise

from ttbr.arch.descriptors import TABLE, descriptor_type, output_address
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.switch.judge import BBM, Clash, Finding, Slice
from ttbr.switch.saturate import Note, Origin, Read, make_leaf
from ttbr.switch.state import OUT, Point
from ttbr.switch.timeline import Access
from ttbr.switch.tlb import CONFLICT, Leaf, Part, conflict
from ttbr.walk.translate import HIERARCHICAL, NSTABLE

__all__ = ["break_before_make"]

# A change of the Contiguous bit has rules of its own (R_QTRPM), and R_WHZWS does not list it.
_CONTIGUOUS = 1 << 52
# APTable[0] and PXNTable are RES0 where there is no EL0.
_RES0_ONE_RANGE = 1 << 61 | 1 << 59


def break_before_make(piece: Slice) -> Iterator[Finding]:
    """A finding for each store that needed a break for this address and had none.

    While nothing walks, a store is as good as its TLBI later: it counts where walks go on, or go on
    otherwise, with entries made from what was there before.
    """
    stored: dict[int, int] = {}
    regime, made = piece.regime, _Made(piece)
    for before, point in pairwise(piece.line.points):
        if point.stored:
            stored.update(point.stored)
        elif point.registers[regime] is before.registers[regime]:
            continue
        if not _walks(piece, point):
            continue
        moved = point.registers[regime] is not before.registers[regime]
        if moved and (not _walks(piece, before) or piece.configs(before) != piece.configs(point)):
            for location, value in stored.items():
                if value & 1:
                    yield from _stale(piece, point, location, value)
        elif point.stored:
            read = piece.touched.get(before.number, frozenset())
            for location, value in point.stored:
                if value & 1 and (location in read or location in made.at(before.number)):
                    yield from _check(piece, point.number, location, value)


def _walks(piece: Slice, point: Point) -> bool:
    now = point.registers[piece.regime]
    return now.walking != OUT and 1 in now.fields["M"]


class _Made:
    """The locations of descriptors that made entries which may be there at a point."""

    def __init__(self, piece: Slice) -> None:
        self._piece = piece
        self._alike, self._found = -1, frozenset[int]()

    def at(self, number: int) -> frozenset[int]:
        alike = self._piece.alike[number]
        if alike != self._alike:
            entries = self._piece.worlds[number]
            self._found = frozenset(e.location for e in entries if isinstance(e, Leaf | Part))
            self._alike = alike
        return self._found


def _check(piece: Slice, number: int, location: int, value: int) -> Iterator[Finding]:
    before = piece.line.points[number - 1]
    entries = piece.worlds[number - 1]
    note = Note()
    configs = [c for c in piece.configs(before) if c.enabled]
    piece.walker.close(entries, configs, before.visible[piece.regime], number - 1, note)
    reads = note.reads.get(location, [])
    shown = before.visible[piece.regime].get(location) or (piece.line.tables[location] or 0,)
    below = [e for e in entries if isinstance(e, Leaf) and _through(piece, number - 1, e, location)]
    for read in reads:
        new = set(_leaves(piece, number, read, location, value))
        asids = (None, read.config.asid)
        yield from _compare(piece, number, {e for e in below if e.tag in asids}, new, read)
        for old_value in shown:
            if old_value != value and old_value & 1:
                old = _leaves(piece, number - 1, read, location, old_value)
                yield from _compare(piece, number, set(old), new, read)
                yield from _limits(piece, number, read, location, old_value, value)
    yield from _stale(piece, piece.line.points[number], location, value)


def _through(piece: Slice, number: int, leaf: Leaf, location: int) -> bool:
    """Whether the walk that made *leaf* read the table descriptor at *location*."""
    origin: Origin | None = piece.worlds[number].get(leaf)
    while origin is not None and origin.parent is not None:
        if origin.parent.location == location:
            return True
        origin = piece.worlds[origin.point].get(origin.parent)
    return False


def _stale(piece: Slice, point: Point, location: int, value: int) -> Iterator[Finding]:
    """Entries made from the location's former values, which walks no longer see."""
    number = point.number
    live = [
        c for c in piece.configs(point) if c.enabled and c.decoder is not None and c.p is not None
    ]
    for entry in piece.worlds[number - 1]:
        if not isinstance(entry, Leaf | Part) or entry.location != location:
            continue
        if entry.descriptor == value:
            continue
        level = entry.level if isinstance(entry, Leaf) else entry.level - 1
        for c in live:
            if entry.tag is not None and entry.tag != c.asid:
                continue
            assert c.decoder is not None
            va = entry.va if isinstance(entry, Leaf) else piece.va
            read = Read(va, level, c.decoder, c, entry.hierarchical)
            new = set(_leaves(piece, number, read, location, value))
            old = (
                {entry}
                if isinstance(entry, Leaf)
                else set(_leaves(piece, number - 1, read, location, entry.descriptor))
            )
            yield from _compare(piece, number, old, new, read)
            if isinstance(entry, Part):
                yield from _limits(piece, number, read, location, entry.descriptor, value)


def _limits(
    piece: Slice, number: int, read: Read, location: int, old: int, new: int
) -> Iterator[Finding]:
    """A table descriptor that replaces another with other APTable, UXNTable or PXNTable bits."""
    p = read.decoder.p
    counting = HIERARCHICAL & ~NSTABLE & (~0 if p.el0 else ~_RES0_ONE_RANGE)
    if p.hpd or not (old ^ new) & counting:
        return
    parts = []
    for value in (old, new):
        kind = descriptor_type(value, read.level, read.decoder.granule, read.decoder.wide)
        if kind != TABLE:
            return
        table = output_address(value, p.form, read.decoder.granule.shift)
        shift = read.decoder.shifts[read.level]
        first, size = read.va >> shift << shift, 1 << shift
        limits = (read.hierarchical | value) & HIERARCHICAL
        parts.append(
            Part(
                *(read.config.asid, first, size, read.level + 1, table),
                *(read.decoder.granule.shift, limits, value, location),
            )
        )
    yield _finding(piece, number, parts[0], parts[1], read)


def _leaves(piece: Slice, number: int, read: Read, location: int, value: int) -> Iterator[Leaf]:
    """The leaves that *value*, read at *location*, leads to with the memory at a point."""
    point, decoder, va = piece.line.points[number], read.decoder, read.va
    kind = descriptor_type(value, read.level, decoder.granule, decoder.wide)
    if kind != TABLE:
        if kind in ("block", "page"):
            made = make_leaf(
                va,
                read.level,
                location,
                value & ~_CONTIGUOUS,
                decoder,
                read.config,
                read.hierarchical,
            )
            if isinstance(made, Leaf):
                yield made
        return
    if read.level >= LAST_LEVEL:
        return
    table = output_address(value, decoder.p.form, decoder.granule.shift)
    level = read.level + 1
    below = table + (va >> decoder.shifts[level] & decoder.mask) * 8
    hierarchical = read.hierarchical | value
    next_read = Read(va, level, decoder, read.config, hierarchical)
    for word in point.visible[piece.regime].get(below) or (piece.line.tables[below],):
        if word is not None:
            yield from _leaves(piece, number, next_read, below, word)


def _compare(
    piece: Slice, number: int, old: set[Leaf], new: set[Leaf], read: Read
) -> Iterator[Finding]:
    for a in old:
        for b in new:
            plain = a._replace(descriptor=a.descriptor & ~_CONTIGUOUS)
            if conflict(plain, b, read.va, piece.bbm) == CONFLICT:
                yield _finding(piece, number, a, b, read)


def _finding(piece: Slice, number: int, a: Leaf | Part, b: Leaf | Part, read: Read) -> Finding:
    point = piece.line.points[number]
    access = Access(point.step, piece.regime, read.va, 0, number - 1, number)
    return Finding(BBM, access, number, Clash(CONFLICT, a, b, read.config), None, piece)

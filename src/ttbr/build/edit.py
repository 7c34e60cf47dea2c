"""Editing built tables: map, unmap, protect, with the steps that a live table needs.

An edit first works out what every entry becomes, in new tables where a block is split or a hole
gets smaller leaves; nothing is changed until all is known to be legal. `ttbr.build.steps` puts the
writes in order. Tables that become empty are taken out and given back.
"""

import struct
from collections.abc import Callable, Iterator

from ttbr.arch.descriptors import BLOCK, INVALID, PAGE, TABLE, descriptor_type, output_address
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import Level
from ttbr.build.arena import Arena
from ttbr.build.attributes import Attributes
from ttbr.build.mair import Mair
from ttbr.build.plan import BLOCK_TYPE, CONTIGUOUS, TABLE_TYPE, root_pages
from ttbr.build.spans import Span, Style, spans_of, style_of
from ttbr.build.steps import Change, Step, WriteTable, schedule
from ttbr.build.tables import Tables
from ttbr.errors import InvalidError
from ttbr.regions import Region, RegionMap
from ttbr.walk import Run, runs

__all__ = ["Editor"]

_NT = 1 << 16
# (level, offset of the entry, its old leaf or 0) -> its new descriptor; None: smaller leaves.
Becomes = Callable[[Level, int, int], int | None]


class Editor:
    """Changes *tables* in place; each edit returns its steps in order.

    *budget* is the largest number of tables there may be; *bbm* the level of FEAT_BBM of the CPU
    (0, 1 or 2). Refuses trees in which a table is referred to twice. An edit that is refused
    (`InvalidError`) changes nothing.
    """

    def __init__(self, tables: Tables, *, budget: int | None = None, bbm: int = 0) -> None:
        if bbm not in (0, 1, 2):
            raise InvalidError(f"bbm {bbm}: FEAT_BBM has levels 0 to 2")
        self.tables = tables
        self.budget = budget
        self.bbm = bbm
        self.count = sum(tables.counts.values()) or _tree_size(tables)

    def map(self, region: Region[Attributes]) -> list[Step]:
        """Map *region*, where nothing may be mapped yet."""
        p = self.tables.params
        spans, styles = spans_of(RegionMap([region], p.granule.size), p, self._mair())
        for run in runs(self.tables.memory(), p, low=region.va, high=region.last):
            raise InvalidError(f"region {region}: {max(run.va, region.va):#x} is mapped already")
        edit = _Edit(self)
        for span in spans:
            edit.change(span.first, span.end, _mapper(edit, span, styles[span.style]))
        return edit.commit()

    def unmap(self, va: int, size: int) -> list[Step]:
        """Unmap *size* bytes at *va*, all of which must be mapped."""
        first, end = self._mapped(va, size)
        edit = _Edit(self)
        edit.change(first, end, lambda row, offset, old: 0)
        return edit.commit()

    def protect(self, va: int, size: int, attributes: Attributes) -> list[Step]:
        """Give *size* bytes at *va*, all of which must be mapped, *attributes*."""
        first, end = self._mapped(va, size)
        p = self.tables.params
        style = style_of(attributes, p, self._mair())
        keep = p.form.low_mask(p.granule.shift) | p.form.high_mask | 0b11
        keep |= CONTIGUOUS if style.contiguous else 0

        def becomes(row: Level, offset: int, old: int) -> int | None:
            return old & keep | style.bits if row.shift <= style.largest else None

        edit = _Edit(self)
        edit.change(first, end, becomes)
        return edit.commit()

    def _mair(self) -> Mair:
        """The memory types in force: a new one would be a change of MAIR under live tables."""
        mair = self.tables.mair
        return Mair(mair.value, mair.used, True)

    def _mapped(self, va: int, size: int) -> tuple[int, int]:
        """(first, end) offsets of a range that must be mapped."""
        p = self.tables.params
        if size <= 0 or (va | size) & (p.granule.size - 1):
            raise InvalidError(f"{va:#x}, size {size:#x}: not whole {p.granule.name} pages")
        if not p.base <= va <= p.base + (1 << p.input_bits) - size:
            raise InvalidError(f"{va:#x}, size {size:#x}: outside the range of {p.name}")
        at = va
        for run in runs(self.tables.memory(), p, low=va, high=va + size - 1):
            if not isinstance(run, Run) or run.va > at:
                break
            at = run.end
        if at < va + size:
            raise InvalidError(f"{va:#x}, size {size:#x}: {at:#x} is not mapped")
        return va - p.base, va + size - p.base


def _mapper(edit: "_Edit", span: Span, style: Style) -> Becomes:
    """What entries become that map *span*."""
    p = edit.p

    def becomes(row: Level, offset: int, old: int) -> int | None:
        pa = span.pa + offset - span.first
        if not row.may_be_block or row.shift > style.largest or pa & ((1 << row.shift) - 1):
            return None
        kind = TABLE_TYPE if row.level == LAST_LEVEL else BLOCK_TYPE
        unit = p.granule.contiguous.get(row.level, 0) << row.shift
        if unit and style.contiguous and not (offset - pa) & (unit - 1):
            group = offset & -unit
            if span.first <= group and group + unit <= span.end:
                kind |= CONTIGUOUS
        return p.form.place(pa) | style.bits | kind

    return becomes


class _Edit:
    """One edit being worked out: new tables, changes of live entries, tables that go."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.p = editor.tables.params
        self.arena: Arena = editor.tables.arena
        self.made: list[WriteTable] = []
        self.changes: list[Change] = []
        self.gone: list[int] = []

    def change(self, first: int, end: int, becomes: Becomes) -> None:
        """Change offsets *first* to *end*; on refusal the tables made so far are given back."""
        try:
            self._live_table(self.p.root, 0, 0, first, end, becomes)
        except InvalidError:
            for table in self.made:
                self.arena.free(table.address)
            raise

    def commit(self) -> list[Step]:
        """Write everything, and say how."""
        editor = self.editor
        steps = schedule(self.p, self.made, self.changes, editor.bbm)
        for table in self.made:
            for at, descriptor in enumerate(table.descriptors):
                self.arena.store(table.address + 8 * at, descriptor)
        for change in self.changes:
            self.arena.store(change.address, change.new)
        for address in self.gone:
            self.arena.free(address)
        editor.count += len(self.made) - len(self.gone)
        editor.tables.estimate = None
        return steps

    def _kind(self, descriptor: int, row: Level) -> str:
        return descriptor_type(descriptor, row.level, self.p.granule, self.p.form.wide)

    def _target(self, descriptor: int) -> int:
        return output_address(descriptor, self.p.form, self.p.granule.shift)

    def _entries(self, address: int, row: Level) -> list[int]:
        data = self.arena.read(address, 8 * (row.mask + 1))
        return list(struct.unpack(f"<{row.mask + 1}Q", data))

    def _live_table(
        self, address: int, depth: int, base: int, first: int, end: int, becomes: Becomes
    ) -> bool:
        """Change a table in use; True: it is empty then, and the entry for it is to go instead."""
        row = self.p.levels[depth]
        old = self._entries(address, row)
        new = list(old)
        for index in self._covered(row, base, first, end):
            at = base + (index << row.shift)
            if self._kind(old[index], row) == TABLE:
                below = self._target(old[index])
                if self._live_table(below, depth + 1, at, first, end, becomes):
                    new[index] = 0
            else:
                new[index] = self._entry(old[index], depth, at, first, end, becomes)
        self._ungroup(new, row)
        if address != self.p.root and not any(new):
            return True
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                self._replace(address, index, before, after, row, base, depth)
        return False

    def _covered(self, row: Level, base: int, first: int, end: int) -> range:
        low = max(first - base, 0) >> row.shift
        return range(low, min((end - 1 - base >> row.shift) + 1, row.mask + 1))

    def _replace(
        self, address: int, index: int, old: int, new: int, row: Level, base: int, depth: int
    ) -> None:
        at = base + (index << row.shift)
        stale: tuple[int, ...] = ()
        kind = self._kind(old, row)
        if kind == TABLE:
            found = list(self._subtree(self._target(old), depth + 1, at))
            self.gone += [table for table, _ in found]
            stale = tuple(va for _, addresses in found for va in addresses)
        elif kind != INVALID:
            stale = (self.p.base + at,)
        change = Change(address + 8 * index, old, new, row.level, self.p.base + at, stale)
        self.changes.append(change)

    def _subtree(self, address: int, depth: int, base: int) -> Iterator[tuple[int, list[int]]]:
        """Each table under one that goes, and the addresses of the leaves in it."""
        row = self.p.levels[depth]
        stale = []
        for index, d in enumerate(self._entries(address, row)):
            at = base + (index << row.shift)
            kind = self._kind(d, row)
            if kind == TABLE:
                yield from self._subtree(self._target(d), depth + 1, at)
            elif kind in (BLOCK, PAGE):
                stale.append(self.p.base + at)
        yield address, stale

    def _entry(self, old: int, depth: int, at: int, first: int, end: int, becomes: Becomes) -> int:
        """What an entry without a table becomes; a new table where it is changed in part."""
        row = self.p.levels[depth]
        if first <= at and at + (1 << row.shift) <= end:
            new = becomes(row, at, old)
            if new is not None:
                return new
        below = self.p.levels[depth + 1]
        entries = self._parts(old, row, below)
        for index in self._covered(below, at, first, end):
            part = at + (index << below.shift)
            entries[index] = self._entry(entries[index], depth + 1, part, first, end, becomes)
        address = self._new_table()
        va = self.p.base + at
        self.made.append(WriteTable(address, tuple(entries), below.level, va))
        return self.p.form.place(address) | TABLE_TYPE

    def _parts(self, old: int, row: Level, below: Level) -> list[int]:
        """The leaves one level down that say what the leaf *old* says."""
        if not old & 1:
            return [0] * (below.mask + 1)
        form = self.p.form
        pa = output_address(old, form, row.shift)
        bits = old & ~(row.leaf_mask | form.high_mask | CONTIGUOUS | _NT | 0b11)
        bits |= TABLE_TYPE if below.level == LAST_LEVEL else BLOCK_TYPE
        return [form.place(pa + (index << below.shift)) | bits for index in range(below.mask + 1)]

    def _new_table(self) -> int:
        editor = self.editor
        count = editor.count + len(self.made) + 1
        if editor.budget is not None and count > editor.budget:
            raise InvalidError(f"the edit needs {count} tables, the budget is {editor.budget}")
        return self.arena.new_table()

    def _ungroup(self, entries: list[int], row: Level) -> None:
        """Clear the Contiguous bit of groups that are no longer whole and alike (R_QTRPM)."""
        group = self.p.granule.contiguous.get(row.level)
        if not group or not row.may_be_block:
            return
        keep = ~(row.leaf_mask | self.p.form.high_mask)
        for start in range(0, len(entries), group):
            part = entries[start : start + group]
            if not any(d & CONTIGUOUS for d in part if self._kind(d, row) in (BLOCK, PAGE)):
                continue
            kinds = {self._kind(d, row) for d in part}
            alike = len(kinds) == 1 and len({d & keep for d in part}) == 1
            if not alike:
                for index in range(start, start + len(part)):
                    if self._kind(entries[index], row) in (BLOCK, PAGE):
                        entries[index] &= ~CONTIGUOUS


def _tree_size(tables: Tables) -> int:
    """How many tables a tree has, as `Estimate` counts; `InvalidError` when it is not a tree."""
    p, seen = tables.params, {tables.params.root}
    below = [(p.root, 0)]
    for table, depth in below:
        row = p.levels[depth]
        if row.level == LAST_LEVEL:
            continue
        data = tables.arena.read(table, 8 * (row.mask + 1))
        for d in struct.unpack(f"<{row.mask + 1}Q", data):
            if descriptor_type(d, row.level, p.granule, p.form.wide) == TABLE:
                target = output_address(d, p.form, p.granule.shift)
                if target in seen:
                    raise InvalidError(f"table {target:#x} is referred to twice: not a tree")
                seen.add(target)
                below.append((target, depth + 1))
    return len(seen) - 1 + root_pages(p)

"""Which addresses stand for all others: a proof about a whole range from a few addresses of it.

Two addresses behave alike through a trace when every walk that any registers of the trace allow
reads descriptors of the same kind, level and attributes for both, in tables that coincide in the
same places, with outputs that stand in the same relation to each other and to the intent; when the
same stores change those descriptors; and when the same TLBIs cover their entries. `cells` overlays
the runs of all tables in play and gives one address for each class of such addresses.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ttbr.arch.descriptors import INVALID, RESERVED, TABLE, OutputFormat, descriptor_type
from ttbr.arch.descriptors import output_address as output_of
from ttbr.arch.geometry import Granule
from ttbr.errors import UnsupportedError
from ttbr.switch.configs import ROWS, Config
from ttbr.switch.problem import Intent
from ttbr.switch.timeline import Timeline
from ttbr.switch.tlb import Invalidation

__all__ = ["below", "cells", "configs_in_play", "reaching"]

LIMIT = 4096
_CONTIGUOUS = 1 << 52
_NO_CELLS = -1


class Run(NamedTuple):
    """Addresses from `start` to `end` (excluded) whose walk ends alike; `output` is that of `start`
    (None without a translation), `sign` what else the class depends on, `path` the tables read."""

    start: int
    end: int
    sign: object
    output: int | None
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """How the descriptors of a layout are read."""

    granule: Granule
    form: OutputFormat
    output_bits: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One root under one format; `base` is the lowest address of its range."""

    root: int
    level: int
    mask: int
    base: int
    input_bits: int
    format: Format


def configs_in_play(line: Timeline, regime: str, upper: int) -> list[Config]:
    """Every config that a walk of one half may use at some point of the trace."""
    found: dict[Config, None] = {}
    for point in line.points:
        numbers = [-1, *(p.tlbi.number for p in point.pending if p.tlbi.regime == regime)]
        for number in numbers:
            for config in line.configs(point, regime, upper, number):
                if config.enabled and config.p is not None:
                    found[config] = None
    for environment in line.problem.environment:
        if environment.regime == regime:
            other = line.configurations.environment(ROWS[regime], environment.registers, upper)
            if other is not None:
                found[other] = None
    return list(found)


def _layouts(configs: Iterable[Config]) -> list[Layout]:
    """Every root under every format, since a partial walk may go on under another one."""
    roots: dict[tuple[int, int, int, int, int], None] = {}
    formats: dict[tuple[int, str, int], Format] = {}
    for config in configs:
        p = config.p
        assert p is not None
        first = p.levels[0]
        roots[p.root, first.level, first.mask, p.base, p.input_bits] = None
        key = (p.granule.shift, p.form.name, p.output_bits)
        formats.setdefault(key, Format(p.granule, p.form, p.output_bits))
    return [Layout(*root, f) for root in roots for f in formats.values()]


class _Ranges:
    """The intent ranges of one half that are to be covered, in order."""

    def __init__(self, intents: Iterable[Intent]) -> None:
        self.items = sorted(intents, key=lambda i: i.va)
        self.starts = [i.va for i in self.items]

    def overlap(self, low: int, high: int) -> bool:
        index = bisect_right(self.starts, high - 1) - 1
        return index >= 0 and self.items[index].end > low


class _Lister:
    """Lists the runs of a layout where they overlap the wanted ranges; tables are read once."""

    def __init__(self, line: Timeline, wanted: _Ranges) -> None:
        self.line, self.wanted = line, wanted
        self.tables = line.tables
        self.values: dict[int, list[int]] = {}
        for point in line.points:
            for location, value in point.stored:
                known = self.values.setdefault(location, [line.tables[location] or 0])
                if value not in known:
                    known.append(value)
        self.pages = {location >> 12 for location in self.values}
        self._items: dict[object, list[tuple[int, int, object, int | None, int]]] = {}

    def layout(self, layout: Layout) -> Iterator[Run]:
        """All runs of *layout*, in order of address."""
        yield from self.table(
            layout.format, layout.level, layout.root, layout.mask, layout.base, ()
        )

    def table(
        self, f: Format, level: int, table: int, mask: int, va: int, path: tuple[int, ...]
    ) -> Iterator[Run]:
        shift = f.granule.level_shift(level)
        if table >> f.output_bits:
            yield Run(va, va + (mask + 1 << shift), ("size", level), None, path)
            return
        path = (*path, table)
        for first, last, sign, output, target in self.items(f, level, table, mask):
            low, high = va + (first << shift), va + (last + 1 << shift)
            if not self.wanted.overlap(low, high):
                continue
            if sign == TABLE:
                yield from self.table(f, level + 1, target, f.granule.entries - 1, low, path)
            elif sign == "stored":
                yield from self.stored(f, level, target, low, high, path)
            else:
                yield Run(low, high, (sign, level), output, path)

    def stored(
        self, f: Format, level: int, location: int, low: int, high: int, path: tuple[int, ...]
    ) -> Iterator[Run]:
        """The addresses below a stored-to descriptor, under each of its values."""
        lists = []
        for value in self.values[location]:
            sign, output, target = self.item(f, level, value)
            if sign == TABLE:
                runs = list(
                    self.table(f, level + 1, target, f.granule.entries - 1, low, (*path, location))
                )
            else:
                runs = [Run(low, high, (sign, level), output, path)]
            lists.append(runs)
        for start, end, parts in _overlay(lists, low, high):
            signs = tuple((p.sign, _at(p, start), p.path) if p else None for p in parts)
            yield Run(start, end, ("stored", location, signs), None, path)

    def item(self, f: Format, level: int, word: int | None) -> tuple[object, int | None, int]:
        """(sign, output, next table) of one descriptor."""
        if word is None:
            return "junk", None, 0
        kind = descriptor_type(word, level, f.granule, f.form.wide)
        if kind in (INVALID, RESERVED):
            return "fault", None, 0
        if kind == TABLE:
            return TABLE, None, output_of(word, f.form, f.granule.shift)
        shift = f.granule.level_shift(level)
        output = output_of(word, f.form, shift)
        attributes = word & ~(f.form.low_mask(shift) | f.form.high_mask)
        return (attributes, output >> f.output_bits != 0), output, 0

    def items(
        self, f: Format, level: int, table: int, mask: int
    ) -> list[tuple[int, int, object, int | None, int]]:
        """The entries of a table, neighbours merged: (first, last, sign, output, target)."""
        key = (f, level, table, mask)
        found = self._items.get(key)
        if found is None:
            found = self._items[key] = list(self._merge(f, level, table, mask))
        return found

    def _merge(
        self, f: Format, level: int, table: int, mask: int
    ) -> Iterator[tuple[int, int, object, int | None, int]]:
        step = 1 << f.granule.level_shift(level)
        has_stores = any(
            page in self.pages for page in range(table >> 12, (table + 8 * mask >> 12) + 1)
        )
        odd = self._irregular(f, level, table, mask)
        entry: tuple[int, object, int | None, int] | None = None  # first, sign, output, target
        following: int | None = None
        for index, word in enumerate(self.tables.words(table, mask + 1)):
            location = table + 8 * index
            sign: object
            if has_stores and location in self.values:
                sign, output, target = "stored", None, location
            else:
                sign, output, target = self.item(f, level, word)
            if index in odd and sign not in (TABLE, "stored"):
                sign = (sign, "group", odd[index])
            if entry is not None:
                if sign == entry[1] and sign not in (TABLE, "stored") and output == following:
                    following = None if output is None else output + step
                    continue
                yield entry[0], index - 1, *entry[1:]
            entry = (index, sign, output, target)
            following = None if output is None else output + step
        assert entry is not None
        yield entry[0], mask, *entry[1:]

    def _irregular(self, f: Format, level: int, table: int, mask: int) -> dict[int, object]:
        """Entries of contiguous groups that are not uniform, with what they behave alike by."""
        count = f.granule.contiguous.get(level)
        size = 8 * (mask + 1)
        stored = any(table <= at < table + size for at in self.values)
        if count is None or not (stored or self.tables.may_be_contiguous(table, size)):
            return {}
        words = [w or 0 for w in self.tables.words(table, mask + 1)]
        found: dict[int, object] = {}
        shift = f.granule.level_shift(level)
        for first in range(0, mask + 1, count):
            group = words[first : first + count]
            changed = any(table + 8 * (first + i) in self.values for i in range(count))
            if not changed and not any(w & 1 and w & _CONTIGUOUS for w in group):
                continue
            uniform = all(w == group[0] + (i << shift) for i, w in enumerate(group))
            aligned = not (group[0] >> shift) % count
            if changed or not (uniform and aligned):
                for i, own in enumerate(group):
                    alike = (i, tuple(w - own for w in group))
                    found[first + i] = table + 8 * (first + i) if changed else alike
        return found


def _at(run: Run, va: int) -> int | None:
    return None if run.output is None else run.output + va - run.start


def _overlay(
    lists: list[list[Run]], low: int, high: int
) -> Iterator[tuple[int, int, tuple[Run | None, ...]]]:
    """The pieces between all boundaries of *lists*, each with the run of every list there."""
    cuts = {low, high}
    for runs in lists:
        for run in runs:
            cuts.add(run.start)
            cuts.add(run.end)
    points = sorted(c for c in cuts if low <= c <= high)
    at = [0] * len(lists)
    for start, end in pairwise(points):
        parts: list[Run | None] = []
        for i, runs in enumerate(lists):
            k = at[i]
            while k < len(runs) and runs[k].end <= start:
                k += 1
            at[i] = k
            parts.append(runs[k] if k < len(runs) and runs[k].start <= start else None)
        yield start, end, tuple(parts)


def _tlbi_runs(tlbis: Iterable[Invalidation], granules: list[Granule]) -> Iterator[list[Run]]:
    """For each TLBI by address: the aligned spans around it, by how large an entry reaches it."""
    sizes = {g.entry_size(level) for g in granules for level in range(-1, 4)}
    sizes |= {g.entry_size(level) * n for g in granules for level, n in g.contiguous.items()}
    for tlbi in tlbis:
        first, last = tlbi.scope.first, tlbi.scope.last
        if first is None or last is None:
            continue
        inner: list[Run] = [Run(first, last + 1, 0, None, ())]
        for size in sorted(sizes):
            low, high = first & -size, (last | size - 1) + 1
            if low < inner[0].start:
                inner.insert(0, Run(low, inner[0].start, size, None, ()))
            if high > inner[-1].end:
                inner.append(Run(inner[-1].end, high, size, None, ()))
        yield inner


def cells(line: Timeline, regime: str, intents: Iterable[Intent]) -> Iterator[tuple[int, Intent]]:
    """(address, its intent) for each class of addresses in the ranges of *intents*.

    Raises `UnsupportedError` for a large range in a trace that changes the granule.
    """
    two = len(ROWS[regime].halves) > 1
    for upper in (0, 1) if two else (0,):
        mine = [i for i in intents if int(two and i.va >> 55 & 1) == upper]
        if mine:
            yield from _half(line, regime, upper, _Ranges(mine))


def _half(line: Timeline, regime: str, upper: int, wanted: _Ranges) -> Iterator[tuple[int, Intent]]:
    configs = configs_in_play(line, regime, upper)
    layouts = _layouts(configs)
    if len({layout.format.granule.shift for layout in layouts}) > 1:
        yield from _pages(wanted)
        return
    lister = _Lister(line, wanted)
    lists = [list(lister.layout(layout)) for layout in layouts]
    granules = [layout.format.granule for layout in layouts]
    tlbis = [p.issued for p in line.points if p.issued is not None and p.issued.regime == regime]
    lists += list(_tlbi_runs(tlbis, granules))
    lists.append([Run(i.va, i.end, n, None, ()) for n, i in enumerate(wanted.items)])
    yield from _classes(lists, len(layouts), wanted)


def _classes(lists: list[list[Run]], layouts: int, wanted: _Ranges) -> Iterator[tuple[int, Intent]]:
    """One address for each distinct signature of the overlay."""
    seen = set()
    patterns: dict[tuple[tuple[int, ...], ...], tuple[int, ...]] = {}
    low, high = wanted.items[0].va, max(i.end for i in wanted.items)
    for start, _, parts in _overlay(lists, low, high):
        last = parts[-1]
        if last is None:
            continue
        intent = wanted.items[last.sign]  # type: ignore[call-overload]
        meant = intent.output(start)
        walks = parts[:layouts]
        paths = tuple(run.path if run else () for run in walks)
        pattern = patterns.get(paths)
        if pattern is None:
            pattern = patterns[paths] = _pattern(paths)
        outputs = [_at(run, start) if run else None for run in walks]
        known: dict[int | None, int] = {None: -1}
        if meant is not None:
            known[meant] = 0
        relation = tuple(known.setdefault(o, len(known)) for o in outputs)
        signs = tuple(run.sign if run else None for run in parts[:-1])
        ident = (intent.attr, intent.permissions, intent.fault, intent.when, meant is None)
        key = (signs, relation, pattern, ident, meant == start)
        if key not in seen:
            seen.add(key)
            yield start, intent


def _pattern(paths: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Which tables of the paths are the same, whatever they are."""
    names: dict[int, int] = {}
    flat: list[int] = []
    for path in paths:
        flat += [names.setdefault(table, len(names)) for table in path]
        flat.append(-1)
    return tuple(flat)


def _pages(wanted: _Ranges) -> Iterator[tuple[int, Intent]]:
    """Every page by itself: a change of granule reads one table in two ways."""
    count = sum(i.size >> 12 for i in wanted.items)
    if count > LIMIT:
        raise UnsupportedError(
            f"{count} pages to cover while the granule changes (limit {LIMIT}): narrow the intent"
        )
    for intent in wanted.items:
        for va in range(intent.va, intent.end, 1 << 12):
            yield va, intent


def reaching(line: Timeline, regime: str, read: Mapping[int, set[int]]) -> Iterator[int]:
    """An address for each root and each stored-to descriptor that walks from this root read.

    *read* are the locations, by root, that other addresses have read from it already.
    """
    for upper in range(len(ROWS[regime].halves)):
        lister = _Lister(line, _Ranges([]))
        for layout in _layouts(configs_in_play(line, regime, upper)):
            missing = set(line.stored - read.get(layout.root, set()))
            for va, _ in _search(lister, layout, missing):
                yield va


def below(line: Timeline, regime: str) -> Iterator[int]:
    """Addresses that stand for all those below each stored-to descriptor that may be of a table."""
    for upper in range(len(ROWS[regime].halves)):
        lister = _Lister(line, _Ranges([]))
        spans: dict[int, int] = {}
        for layout in _layouts(configs_in_play(line, regime, upper)):
            for va, size in _search(lister, layout, set(line.stored)):
                if size > layout.format.granule.size:
                    spans[va] = max(size, spans.get(va, 0))
        end = -1
        wanted = []
        for va, size in sorted(spans.items()):
            if va > end:  # else it is inside the one before
                wanted.append(Intent(va, size, None))
                end = va + size - 1
        yield from (va for va, _ in cells(line, regime, wanted))


def _search(lister: _Lister, layout: Layout, missing: set[int]) -> Iterator[tuple[int, int]]:
    """Addresses of *layout* whose walks read the *missing* locations, and the size of what is below
    them; each table is read once."""
    f = layout.format
    seen: set[tuple[int, int]] = set()
    work = [(layout.level, layout.root, layout.mask, layout.base)]
    while work and missing:
        level, table, mask, va = work.pop()
        if (level, table) in seen or table >> f.output_bits:
            continue
        seen.add((level, table))
        for first, _, sign, _, target in lister.items(f, level, table, mask):
            at = va + (first << f.granule.level_shift(level))
            below = [(sign, target)]
            if sign == "stored":
                if target in missing:
                    missing.discard(target)
                    yield at, f.granule.entry_size(level)
                items = [lister.item(f, level, value) for value in lister.values[target]]
                below = [(item[0], item[2]) for item in items]
            work += [
                (level + 1, goal, f.granule.entries - 1, at)
                for kind, goal in below
                if kind == TABLE and lister.tables.is_table(goal)
            ]

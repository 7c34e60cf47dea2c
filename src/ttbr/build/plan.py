"""From spans to tables: which leaves, which tables, and every descriptor as a few fills.

**Leaves.** For one span, the leaves of a kind cover its aligned middle, less what larger kinds have
covered: at most a head and a tail for each kind, whatever the span's size.

**Tables.** A table at level L is needed where a span is not covered by leaves above L. As spans are
in order, these are intervals of table numbers in order; a table's page is its rank among them,
level after level behind the root.

**Fills.** So the tables of a run are neighbours in memory, and the descriptors of the whole run,
over all its tables, are one arithmetic progression in consecutive entries: a `Fill`. Descriptors
of the tables themselves are fills as well. `ttbr.build.vector` is the same plan for many spans.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import WalkParams
from ttbr.build.spans import Span, Style, leaf_kinds

__all__ = ["CONTIGUOUS", "Estimate", "Fill", "Plan", "make_plan", "root_pages"]

CONTIGUOUS = 1 << 52
BLOCK_TYPE, TABLE_TYPE = 0b01, 0b11


class Fill(NamedTuple):
    """*number* descriptors from entry *entry* on: *value*, *value* + *step*, ..."""

    entry: int
    number: int
    value: int
    step: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a map needs: `tables` by level, and `leaves` by (level, Contiguous bit).

    The root counts as the pages it takes: one, or its concatenated tables.
    """

    page: int
    tables: dict[int, int]
    leaves: dict[tuple[int, bool], int]

    @property
    def total(self) -> int:
        """Pages of all tables."""
        return sum(self.tables.values())

    @property
    def bytes(self) -> int:
        return self.total * self.page

    def text(self) -> str:
        """``12 tables (1 at level 0, 3 at level 1, 8 at level 2)``."""
        parts = ", ".join(f"{n} at level {level}" for level, n in self.tables.items() if n)
        return f"{self.total} table{'s' * (self.total != 1)} ({parts})"


class Run(NamedTuple):
    """Leaves of one level from offset *first* to *end*."""

    level: int
    first: int
    end: int
    pa: int
    bits: int


@dataclass(slots=True)
class Intervals:
    """The tables of one level: intervals of table numbers in order, `ranks` of their firsts."""

    firsts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    total: int = 0
    last: int = -1

    def add(self, first: int, last: int) -> None:
        """Tables *first* to *last* are needed; numbers come in order, the first may repeat."""
        new = max(first, self.last + 1)
        if new > last:
            return
        if self.firsts and new == self.last + 1:
            self.counts[-1] += last - new + 1
        else:
            self.firsts.append(new)
            self.counts.append(last - new + 1)
            self.ranks.append(self.total)
        self.total += last - new + 1
        self.last = last

    def rank(self, number: int) -> int:
        at = bisect_right(self.firsts, number) - 1
        return self.ranks[at] + number - self.firsts[at]


@dataclass(slots=True)
class Plan:
    """Tables by level and leaf runs; `fills` makes the descriptors once pages have addresses."""

    params: WalkParams
    tables: dict[int, Intervals]
    runs: list[Run]
    leaves: dict[tuple[int, bool], int]

    @property
    def estimate(self) -> Estimate:
        counts = {self.params.start_level: root_pages(self.params)}
        counts |= {level: table.total for level, table in self.tables.items()}
        return Estimate(self.params.granule.size, counts, self.leaves)

    def fills(self, pieces: "list[Piece]") -> list[Fill]:
        """All descriptors, in order of entry; *pieces* says where the pages are."""
        p, g = self.params, self.params.granule
        entry = self._entry_function()
        found = []
        for run in self.runs:
            shift = g.level_shift(run.level)
            kind = TABLE_TYPE if run.level == LAST_LEVEL else BLOCK_TYPE
            value = p.form.place(run.pa) | run.bits | kind
            count = run.end - run.first >> shift
            found.append(Fill(entry(run.level, run.first), count, value, 1 << shift))
        page = root_pages(p)
        for level, table in self.tables.items():
            shift = g.level_shift(level - 1)
            for first, count, rank in zip(table.firsts, table.counts, table.ranks, strict=True):
                for skipped, part, address in located(pieces, page + rank, count):
                    at = entry(level - 1, first + skipped << shift)
                    found.append(Fill(at, part, p.form.place(address) | TABLE_TYPE, g.size))
            page += table.total
        return sorted(found)

    def _entry_function(self) -> Callable[[int, int], int]:
        """(level, offset) -> number of the entry, counted from the root's first."""
        p, g = self.params, self.params.granule
        starts, page = {}, root_pages(p)
        for level, table in self.tables.items():
            starts[level] = page
            page += table.total

        def entry(level: int, offset: int) -> int:
            index = offset >> g.level_shift(level)
            if level == p.start_level:
                return index
            rank = self.tables[level].rank(index >> g.stride)
            return (starts[level] + rank) * g.entries + (index & g.entries - 1)

        return entry


class Piece(NamedTuple):
    """*pages* neighbouring pages, from page number *first*, at physical *address*.

    `size` is in bytes: a small root at an address of its own has no whole page.
    """

    first: int
    pages: int
    address: int
    page_size: int
    size: int

    def locate(self, page: int) -> int:
        return self.address + (page - self.first) * self.page_size


def located(pieces: list[Piece], page: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(pages skipped, pages, address) for each piece of *count* pages from *page* on."""
    for piece in pieces:
        low = max(page, piece.first)
        high = min(page + count, piece.first + piece.pages)
        if low < high:
            yield low - page, high - low, piece.locate(low)


def root_pages(p: WalkParams) -> int:
    """Pages that the root takes: one for a root smaller than a page, or its concatenated tables."""
    return max(p.root_size // p.granule.size, 1)


def make_plan(spans: list[Span], styles: list[Style], p: WalkParams) -> Plan:
    """The plan for *spans* in order of address."""
    g, kinds = p.granule, leaf_kinds(p)
    plan = Plan(p, {level: Intervals() for level in range(p.start_level + 1, 4)}, [], {})
    for span in spans:
        first, end, pa, style = span.first, span.end, span.pa, styles[span.style]
        # Covered so far by leaves: low to high; nothing yet is said as both at the end.
        low = high = end
        level = p.start_level
        for kind in kinds:
            shift = g.level_shift(kind.level)
            mask = (1 << kind.unit) - 1
            while level < kind.level:
                level += 1
                _need(plan.tables[level], g.level_shift(level - 1), first, low, high, end)
            if (first - pa) & mask or not style.allows(kind, shift):
                continue
            start, stop = first + mask & ~mask, end & ~mask
            if start >= stop:
                continue
            if low == high:
                low = high = stop
            bits = style.bits | (CONTIGUOUS if kind.contiguous else 0)
            for a, b in ((start, low), (high, stop)):
                if a < b:
                    plan.runs.append(Run(kind.level, a, b, pa + a - first, bits))
                    key = (kind.level, kind.contiguous)
                    plan.leaves[key] = plan.leaves.get(key, 0) + (b - a >> shift)
            low, high = start, stop
    return plan


def _need(table: Intervals, shift: int, first: int, low: int, high: int, end: int) -> None:
    """Tables for what leaves do not cover: *first* to *low*, and *high* to *end*."""
    if first < low:
        table.add(first >> shift, low - 1 >> shift)
    if high < end:
        table.add(high >> shift, end - 1 >> shift)

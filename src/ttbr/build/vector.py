"""`ttbr.build.plan` over arrays, for many spans; and the fills of large tables.

NumPy is imported with this module: import it only where there is much to do. The plan is step by
step that of `make_plan`; each step is done for all spans at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import WalkParams
from ttbr.build.plan import (
    BLOCK_TYPE,
    CONTIGUOUS,
    TABLE_TYPE,
    Estimate,
    Fill,
    Piece,
    root_pages,
)
from ttbr.build.spans import Span, Style, leaf_kinds

__all__ = ["VectorPlan", "fill_entries", "make_plan"]

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

# Descriptors made at a time: the template stays in cache, and the cost of a call is spread.
CHUNK = 1 << 16
# Fills of fewer descriptors are done together, so many fills at a time, by index.
SHORT, BATCH = 192, 512


@dataclass(slots=True)
class Intervals:
    """As `ttbr.build.plan.Intervals`, in arrays."""

    firsts: Ints
    counts: Ints
    ranks: Ints
    total: int

    @classmethod
    def of(cls, first: Ints, end: Ints, shift: int) -> "Intervals":
        """The tables that the stretches *first* to *end*, in order, need."""
        some = first < end
        low, last = first[some] >> shift, end[some] - 1 >> shift
        if not len(low):
            return cls(low, low, low, 0)
        low[1:] = np.maximum(low[1:], last[:-1] + 1)
        new = low <= last
        low, last = low[new], last[new]
        starts = np.flatnonzero(np.append(True, low[1:] != last[:-1] + 1))
        firsts = low[starts]
        counts = np.append(last[starts[1:] - 1], last[-1]) - firsts + 1
        ends = np.cumsum(counts)
        return cls(firsts, counts, ends - counts, int(ends[-1]))

    def rank(self, number: Ints) -> Ints:
        at = np.searchsorted(self.firsts, number, side="right") - 1
        found: Ints = self.ranks[at] + number - self.firsts[at]
        return found


@dataclass(slots=True)
class Runs:
    """Leaf runs of one kind."""

    level: int
    first: Ints
    end: Ints
    pa: Ints
    bits: Words


@dataclass(slots=True)
class VectorPlan:
    """As `ttbr.build.plan.Plan`, in arrays."""

    params: WalkParams
    tables: dict[int, Intervals]
    runs: list[Runs]
    leaves: dict[tuple[int, bool], int]

    @property
    def estimate(self) -> Estimate:
        counts = {self.params.start_level: root_pages(self.params)}
        counts |= {level: table.total for level, table in self.tables.items()}
        return Estimate(self.params.granule.size, counts, self.leaves)

    def fills(self, pieces: list[Piece]) -> "Fills":
        """All descriptors, in order of entry; *pieces* says where the pages are."""
        p, g = self.params, self.params.granule
        parts = []
        for run in self.runs:
            shift = g.level_shift(run.level)
            kind = TABLE_TYPE if run.level == LAST_LEVEL else BLOCK_TYPE
            value = self._place(run.pa) | run.bits | np.uint64(kind)
            entry = self._entry(run.level, run.first)
            parts.append(Fills.of(entry, run.end - run.first >> shift, value, 1 << shift))
        page = root_pages(p)
        for level, table in self.tables.items():
            parts += [self._table_fills(level, table, page, piece) for piece in pieces]
            page += table.total
        return Fills.joined(parts)

    def _table_fills(self, level: int, table: Intervals, page: int, piece: Piece) -> "Fills":
        """The descriptors of those tables of *level* whose pages are in *piece*."""
        g = self.params.granule
        low = np.maximum(table.ranks + page, piece.first)
        high = np.minimum(table.ranks + table.counts + page, piece.first + piece.pages)
        some = low < high
        low, high = low[some], high[some]
        number = table.firsts[some] + low - page - table.ranks[some]
        address = piece.address + (low - piece.first) * g.size
        entry = self._entry(level - 1, number << g.level_shift(level - 1))
        value = self._place(address) | np.uint64(TABLE_TYPE)
        return Fills.of(entry, high - low, value, g.size)

    def _place(self, address: Ints) -> Words:
        """`OutputFormat.place` of each address."""
        form = self.params.form
        low = np.int64((1 << form.low_top + 1) - 1)
        high = address >> np.int64(form.low_top + 1)
        placed: Words = (address & low | high * (form.high_mask & -form.high_mask)).view(np.uint64)
        return placed

    def _entry(self, level: int, offset: Ints) -> Ints:
        p, g = self.params, self.params.granule
        index: Ints = offset >> g.level_shift(level)
        if level == p.start_level:
            return index
        page = root_pages(p) + sum(t.total for n, t in self.tables.items() if n < level)
        rank = self.tables[level].rank(index >> g.stride)
        entry: Ints = (page + rank) * g.entries + (index & g.entries - 1)
        return entry


@dataclass(slots=True)
class Fills:
    """Many `Fill`, in arrays and in order of entry."""

    entry: Ints
    count: Ints
    value: Words
    step: Words

    @classmethod
    def of(cls, entry: Ints, count: Ints, value: Words, step: int) -> "Fills":
        return cls(entry, count, value, np.full(len(entry), step, np.uint64))

    @classmethod
    def joined(cls, parts: "list[Fills]") -> "Fills":
        columns = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("entry", "count", "value", "step")
        ]
        order = np.argsort(columns[0], kind="stable")
        return cls(*(column[order] for column in columns))

    @classmethod
    def of_list(cls, fills: list[Fill]) -> "Fills":
        entry, count, value, step = zip(*fills, strict=True) if fills else ((),) * 4
        return cls(
            np.array(entry, np.int64),
            np.array(count, np.int64),
            np.array(value, np.uint64),
            np.array(step, np.uint64),
        )

    def clip(self, low: int, high: int) -> "Fills":
        """The part of entries *low* to *high* (not included), counted from *low*."""
        first = int(np.searchsorted(self.entry, low, side="right"))
        last = int(np.searchsorted(self.entry, high, side="left"))
        first -= first > 0 and bool(self.entry[first - 1] + self.count[first - 1] > low)
        entry, value = self.entry[first:last].copy(), self.value[first:last].copy()
        end = np.minimum(entry + self.count[first:last], high)
        skipped = np.maximum(low - entry, 0)
        value += skipped.view(np.uint64) * self.step[first:last]
        entry += skipped
        return Fills(entry - low, end - entry, value, self.step[first:last])


def make_plan(spans: list[Span], styles: list[Style], p: WalkParams) -> VectorPlan:
    """The plan for *spans* in order of address."""
    g = p.granule
    rows: Ints = np.array(spans, np.int64).reshape(-1, 4)
    first, end, pa, style = (np.ascontiguousarray(column) for column in rows.T)
    bits = np.array([s.bits for s in styles], np.uint64)[style]
    low, high = end.copy(), end.copy()
    plan = VectorPlan(p, {}, [], {})
    level = p.start_level
    for kind in leaf_kinds(p):
        shift, mask = g.level_shift(kind.level), np.int64((1 << kind.unit) - 1)
        while level < kind.level:
            level += 1
            heads = np.stack([first, high], 1).ravel()
            tails = np.stack([low, end], 1).ravel()
            plan.tables[level] = Intervals.of(heads, tails, g.level_shift(level - 1))
        start, stop = first + mask & ~mask, end & ~mask
        allowed = np.array([s.allows(kind, shift) for s in styles], bool)
        some = allowed[style] & (first - pa & mask == 0) & (start < stop)
        fresh = some & (low == high)
        np.copyto(low, stop, where=fresh)
        np.copyto(high, stop, where=fresh)
        for a, b in ((start, low), (high, stop)):
            _add_runs(plan, kind.level, kind.contiguous, some & (a < b), a, b, pa - first, bits)
        np.copyto(low, start, where=some)
        np.copyto(high, stop, where=some)
    return plan


def _add_runs(
    plan: VectorPlan,
    level: int,
    contiguous: bool,
    where: NDArray[np.bool_],
    first: Ints,
    end: Ints,
    delta: Ints,
    bits: Words,
) -> None:
    chosen = np.flatnonzero(where)
    if not len(chosen):
        return
    a, b = first[chosen], end[chosen]
    said = bits[chosen] | np.uint64(CONTIGUOUS if contiguous else 0)
    plan.runs.append(Runs(level, a, b, a + delta[chosen], said))
    key = (level, contiguous)
    count = int((b - a).sum()) >> plan.params.granule.level_shift(level)
    plan.leaves[key] = plan.leaves.get(key, 0) + count


def fill_entries(out: Any, fills: Fills, *, zero: bool) -> None:
    """Write *fills* into the buffer *out*, as little-endian 64-bit words.

    With *zero* the entries that no fill covers are cleared first; else they are zero already.
    """
    words: Words = np.frombuffer(out, "<u8")
    if zero:
        _clear_gaps(words, fills)
    short = fills.count < SHORT
    _fill_short(words, fills, np.flatnonzero(short))
    long = np.flatnonzero(~short)
    longest = int(fills.count.max(initial=0))
    template = np.arange(min(longest, CHUNK), dtype=np.uint64)
    scaled: dict[int, Words] = {}
    columns = (fills.entry[long], fills.count[long], fills.value[long], fills.step[long])
    for entry, count, value, step in zip(*(c.tolist() for c in columns), strict=True):
        steps = scaled.get(step)
        if steps is None:
            steps = scaled[step] = template * np.uint64(step)
        for done in range(0, count, CHUNK):
            part = words[entry + done : entry + min(done + CHUNK, count)]
            np.add(steps[: len(part)], np.uint64(value + done * step), out=part)


def _clear_gaps(words: Words, fills: Fills) -> None:
    ends = np.append(0, fills.entry + fills.count)
    starts = np.append(fills.entry, len(words))
    for at in np.flatnonzero(starts > ends).tolist():
        words[ends[at] : starts[at]] = 0


def _fill_short(words: Words, fills: Fills, chosen: Ints) -> None:
    """The fills numbered by *chosen*, a batch at a time, each descriptor by its index."""
    for at in range(0, len(chosen), BATCH):
        some = chosen[at : at + BATCH]
        count = fills.count[some]
        ends = np.cumsum(count)
        k = np.arange(int(ends[-1])) - np.repeat(ends - count, count)
        value = np.repeat(fills.value[some], count)
        value += k.view(np.uint64) * np.repeat(fills.step[some], count)
        words[np.repeat(fills.entry[some], count) + k] = value

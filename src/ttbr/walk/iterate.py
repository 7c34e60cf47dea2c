"""List all mappings of one half of a regime, in order of address, runs merged.

`runs` reads each table once a visit and merges neighbours whose descriptors differ in the output
address only and whose output goes on without a gap. `combine` splits stage 1 runs by stage 2.
"""

import struct
from collections.abc import Iterator

from ttbr.arch.faults import Fault
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import Regime, WalkParams
from ttbr.errors import InvalidError, MemoryFault
from ttbr.memory.protocol import Memory
from ttbr.record import record, replace
from ttbr.walk.translate import (
    HIERARCHICAL,
    NSTABLE,
    Leaf,
    Resolve,
    _fetch_through_stage2,
    translate_stage2,
)

__all__ = ["Hole", "Run", "TableCount", "Unreadable", "combine", "runs"]

# A tree that leads to its own tables over and over (a root that refers to itself in every entry,
# the shadow of KASAN) has more mappings than can be listed: tables that were listed before at the
# same level may add so many entries. Under one self-reference each table is met once a level.
_REPEATED = 1 << 16


@record
class Run:
    """Leaves of one level that are contiguous in input and output and alike in all other bits.

    `leaf` describes the first of them: its `output` is the output address of `va`, its descriptor
    has the attributes of all. `size` is in bytes.
    """

    va: int
    size: int
    leaf: Leaf
    leaf2: Leaf | None = None

    @property
    def output(self) -> int:
        return self.leaf.output if self.leaf2 is None else self.leaf2.output

    @property
    def end(self) -> int:
        return self.va + self.size


@record
class Unreadable:
    """A part that is no mapping and no hole: *size* bytes from *va*, of the table at *table*.

    No memory backs the table, stage 2 does not translate its address, it or the output of its
    leaves is beyond the output size (an Address size fault), or it was listed too often.
    """

    va: int
    size: int
    level: int
    table: int
    reason: str


@record
class Hole:
    """Entries of one table that map nothing: *size* bytes from *va*."""

    va: int
    size: int
    level: int


class TableCount:
    """Filled while `runs` iterates: the bytes of each table read, by address, and the visits."""

    def __init__(self) -> None:
        self.tables: dict[int, int] = {}
        self.visits = 0

    @property
    def table_bytes(self) -> int:
        return sum(self.tables.values())


Item = Run | Hole | Unreadable


class _Reader:
    """Reads whole tables, through stage 2 where stage 1 tables are at IPAs."""

    def __init__(self, memory: Memory, regime: Regime | None, p: WalkParams) -> None:
        self.memory = memory
        self.resolve: Resolve | None = None
        self.chunk = 1 << 62
        if regime is not None and p.stage == 1 and regime.stage2 is not None:
            if isinstance(regime.stage2, InvalidError):
                raise regime.stage2
            self.resolve = _fetch_through_stage2(memory, regime)
            self.chunk = regime.stage2.granule.size

    def read(self, address: int, size: int) -> bytes | str:
        """The table's bytes, or why there are none."""
        try:
            if self.resolve is None:
                return self.memory.read(address, size)
            parts = []
            while size:
                part = min(size, self.chunk - address % self.chunk)
                found = self.resolve(address, address, [])
                if isinstance(found, Fault):
                    return f"table at IPA {address:#x}: {found}"
                parts.append(self.memory.read(found, part))
                address, size = address + part, size - part
            return b"".join(parts)
        except MemoryFault as error:
            return f"no memory at {error.address:#x}"


def runs(
    memory: Memory,
    p: WalkParams,
    regime: Regime | None = None,
    *,
    low: int = 0,
    high: int = (1 << 64) - 1,
    count: TableCount | None = None,
    holes: bool = False,
) -> Iterator[Item]:
    """The mappings of half *p* between *low* and *high* (both included), lowest first.

    *regime* is needed where stage 1 tables stand at IPAs. Parts that cannot be read come as
    `Unreadable`, in their place; with *holes* what is not mapped comes as `Hole`. *count* collects
    what was visited.
    """
    counted = TableCount() if count is None else count
    if p.start_error:
        yield Unreadable(p.base, 1 << p.input_bits, p.start_level, p.root, p.start_error)
        return
    lister = _Lister(_Reader(memory, regime, p), p, (low, high), counted, holes)
    pending: Item | None = None
    for item in lister.table(0, p.root, p.base, 0):
        joined = _join(pending, item) if pending is not None else None
        if joined is None and pending is not None:
            yield pending
        pending = item if joined is None else joined
    if pending is not None:
        yield pending


def _join(left: Item, right: Item) -> Item | None:
    """One item of two neighbours, as of two tables whose runs meet, or None."""
    if isinstance(left, Run) and isinstance(right, Run):
        a, b = left.leaf, right.leaf
        if (
            left.end == right.va
            and a.level == b.level
            and a.output + left.size == b.output
            and a.hierarchical == b.hierarchical
            and (a.descriptor ^ b.descriptor) & _attributes(a.params, a.level) == 0
        ):
            return replace(left, size=left.size + right.size)
    elif isinstance(left, Unreadable) and isinstance(right, Unreadable):
        alike = (left.reason, left.table, left.level) == (right.reason, right.table, right.level)
        if alike and left.va + left.size == right.va:
            return replace(left, size=left.size + right.size)
    return None


def _attributes(p: WalkParams, level: int) -> int:
    """The descriptor bits that are not output address."""
    row = p.levels[level - p.start_level]
    return ~(row.leaf_mask | p.form.high_mask) & (1 << 64) - 1


@record
class _Table:
    """A table that was read: *depth* counts from the root, *va* is where it starts to map."""

    address: int
    depth: int
    va: int
    hierarchical: int
    descriptors: tuple[int, ...]


class _Lister:
    """One traversal: `table` lists the table of depth *depth* that starts at *va*."""

    def __init__(
        self,
        reader: _Reader,
        p: WalkParams,
        span: tuple[int, int],
        count: TableCount,
        holes: bool,
    ) -> None:
        self.reader, self.p, self.count, self.holes = reader, p, count, holes
        self.low, self.high = span
        self.page_mask = p.form.low_mask(p.granule.shift)
        self.listed: set[tuple[int, int]] = set()
        self.repeated = 0

    def table(self, depth: int, address: int, va: int, hierarchical: int) -> Iterator[Item]:
        p, row = self.p, self.p.levels[depth]
        size = (row.mask + 1) * 8
        problem = self._problem(address, row.level, size)
        data = problem or self.reader.read(address, size)
        if isinstance(data, str):
            yield Unreadable(va, (row.mask + 1) << row.shift, row.level, address, data)
            return
        self.count.tables[address] = size
        self.count.visits += 1
        descriptors = struct.unpack(f"<{row.mask + 1}Q", data)
        here = _Table(address, depth, va, hierarchical, descriptors)
        first = max(0, (self.low - va) >> row.shift)
        last = min(row.mask, (self.high - va) >> row.shift)
        if row.level == LAST_LEVEL:
            yield from self._entries(here, first, last)
            return
        start = first
        for index in range(first, last + 1):
            d = descriptors[index]
            if d & 3 == 3:
                yield from self._entries(here, start, index - 1)
                start = index + 1
                target = d & self.page_mask | (d & p.form.high_mask) << p.form.high_shift
                below = va + (index << row.shift)
                yield from self.table(depth + 1, target, below, hierarchical | d)
        yield from self._entries(here, start, last)

    def _problem(self, address: int, level: int, size: int) -> str:
        """Why a table is not to be read, or an empty string."""
        if address >> self.p.output_bits:
            return f"table {address:#x} is beyond {self.p.output_bits} bits"
        if (address, level) in self.listed:
            if self.repeated >= _REPEATED:
                return "the tree leads here over and over; not listed again"
            self.repeated += size // 8
        self.listed.add((address, level))
        return ""

    def _entries(self, here: _Table, first: int, last: int) -> Iterator[Item]:
        """Leaves, and holes where they are wanted, among entries that are no tables."""
        row = self.p.levels[here.depth]
        at, end = here.va + (first << row.shift), here.va + (last + 1 << row.shift)
        for start, stop in self._stretches(here, first, last):
            for part in self._leaves(here, start, stop):
                if self.holes and at < part.va:
                    yield Hole(at, part.va - at, row.level)
                yield part
                at = part.va + part.size
        if self.holes and at < end:
            yield Hole(at, end - at, row.level)

    def _stretches(self, here: _Table, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of leaves that go on without a gap and are alike but for the address,
        among entries *first* to *last*."""
        p, row = self.p, self.p.levels[here.depth]
        wanted = 0b11 if row.level == LAST_LEVEL else 0b01
        if wanted == 0b01 and not row.may_be_block:
            return
        step, leaf_mask = 1 << row.shift, row.leaf_mask
        high_mask, high_shift = p.form.high_mask, p.form.high_shift
        attributes = ~(leaf_mask | high_mask)
        start, like, following = -1, 0, 0
        for index, d in enumerate(here.descriptors[first : last + 1], first):
            if d & 3 == wanted:
                address = d & leaf_mask | (d & high_mask) << high_shift
                if start >= 0:
                    if address == following and d & attributes == like:
                        following += step
                        continue
                    yield start, index
                start, like, following = index, d & attributes, address + step
            elif start >= 0:
                yield start, index
                start = -1
        if start >= 0:
            yield start, last + 1

    def _leaves(self, here: _Table, start: int, stop: int) -> Iterator[Run | Unreadable]:
        """Entries *start* to *stop* - 1 as a run, but for what is beyond the output size."""
        p, row = self.p, self.p.levels[here.depth]
        d = here.descriptors[start]
        output = d & row.leaf_mask | (d & p.form.high_mask) << p.form.high_shift
        va, size = here.va + (start << row.shift), stop - start << row.shift
        good = min(max((1 << p.output_bits) - output, 0), size)
        if good:
            inherited = here.hierarchical & (NSTABLE if p.hpd else HIERARCHICAL)
            yield Run(va, good, Leaf(p, row.level, row.shift, output, d, inherited))
        if good < size:
            reason = f"output is beyond {p.output_bits} bits"
            yield Unreadable(va + good, size - good, row.level, here.address, reason)


def combine(memory: Memory, regime: Regime, run: Run) -> Iterator[Run | Unreadable]:
    """Split stage 1 *run* by stage 2: each part has `leaf2`, the parts that go on are merged.

    IPAs that stage 2 does not translate come as `Unreadable`, alike neighbours as one.
    """
    pending: Run | Unreadable | None = None
    for part in _parts(memory, regime, run):
        joined = _join_parts(pending, part) if pending is not None else None
        if joined is None and pending is not None:
            yield pending
        pending = part if joined is None else joined
    if pending is not None:
        yield pending


def _parts(memory: Memory, regime: Regime, run: Run) -> Iterator[Run | Unreadable]:
    """One part for each stage 2 leaf, or for what a faulting stage 2 entry would cover."""
    p = regime.stage2
    if isinstance(p, InvalidError):
        raise p
    assert p is not None
    done = 0
    while done < run.size:
        ipa = run.leaf.output + done
        found, _ = translate_stage2(memory, p, ipa)
        level = found.level if found.level is not None else LAST_LEVEL
        size = 1 << p.granule.level_shift(max(level, p.start_level))
        size = min(size - ipa % size, run.size - done)
        if isinstance(found, Fault):
            yield Unreadable(run.va + done, size, level, ipa, f"{found} from IPA {ipa:#x}")
        else:
            yield Run(run.va + done, size, replace(run.leaf, output=ipa), found)
        done += size


def _join_parts(left: Run | Unreadable, right: Run | Unreadable) -> Run | Unreadable | None:
    if isinstance(left, Unreadable) and isinstance(right, Unreadable):
        alike = left.reason.partition(",")[0] == right.reason.partition(",")[0]
        return replace(left, size=left.size + right.size) if alike else None
    if isinstance(left, Unreadable) or isinstance(right, Unreadable):
        return None
    a, b = left.leaf2, right.leaf2
    if a is None or b is None or a.level != b.level or a.output + left.size != b.output:
        return None
    alike = (a.descriptor ^ b.descriptor) & _attributes(a.params, a.level) == 0
    return replace(left, size=left.size + right.size) if alike else None

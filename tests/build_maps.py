"""Random hostile region maps, and what tables must be for them, said without the builder."""

import random
from collections.abc import Iterable

from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import EL1, EL2, EL3, EL20, STAGE2, WalkParams
from ttbr.build import Attributes, Estimate, table_params
from ttbr.errors import InvalidError
from ttbr.memory import SegmentMemory
from ttbr.regions import Region, RegionMap
from ttbr.walk import Leaf, Run, runs, translate_stage2
from ttbr.walk.iterate import TableCount
from ttbr.walk.translate import table_walk

STYLES = {
    EL1: [
        Attributes(access="rx"),
        Attributes(access="rw", contiguous=True),
        Attributes("device-nGnRE", "rw"),
        Attributes(access="rw", user="rw", not_global=True, contiguous=True),
        Attributes(access="r", user="rx", not_global=True, software=0b1010),
    ],
    EL2: [
        Attributes(access="rx", contiguous=True),
        Attributes(access="rw"),
        Attributes("device-nGnRnE", "rw"),
    ],
    STAGE2: [
        Attributes(access="rwx", contiguous=True),
        Attributes(access="r", user="rx"),
        Attributes("device-nGnRE", "rw"),
    ],
}
STYLES[EL20], STYLES[EL3] = STYLES[EL1], STYLES[EL2]


def random_params(rng: random.Random) -> WalkParams:
    """Any regime, granule, range and output form that registers can say."""
    while True:
        regime = rng.choice((EL1, EL1, EL20, EL2, EL3, STAGE2, STAGE2))
        granule = rng.choice(list(GRANULES))
        wide = rng.random() < 0.35
        bits = rng.choice((36, 39, 40, 42, 43, 44, 47, 48, rng.randrange(17, 53), 52, 51))
        start = rng.choice((None, None, 0, 1, 2, 3)) if regime == STAGE2 else None
        try:
            return table_params(
                regime,
                granule,
                bits,
                upper=regime in (EL1, EL20) and rng.random() < 0.5,
                ds=wide and granule != "64K",
                lpa=wide and granule == "64K",
                output_bits=rng.choice((None, None, None, 40, 44, 48)),
                start=start,
            )
        except InvalidError:
            continue


def random_regions(
    rng: random.Random, p: WalkParams, regime: str, most: int = 8, pages: int = 1500
) -> RegionMap[Attributes]:
    """Up to *most* regions: odd pages, blocks with odd ends, 1.5 GB, neighbours, high addresses."""
    page, limit, top = p.granule.size, 1 << p.input_bits, 1 << p.output_bits
    found: list[Region[Attributes]] = []
    at = 0
    for _ in range(rng.randrange(1, most + 1)):
        near = found and rng.random() < 0.4
        if not near:
            jump = 1 << rng.randrange(p.granule.shift, p.input_bits)
            at = at + rng.randrange(jump) & -page
            if rng.random() < 0.3:
                at = at & -(1 << rng.choice((21, 25, 29, 30, 39, 42)))
        if found and at < found[-1].va + found[-1].size - p.base:
            at = found[-1].va + found[-1].size - p.base
        region = _region(rng, p, found, at, limit - at, top, pages, bool(near))
        if region is None or region.va + region.size > p.base + limit:
            continue
        if not any(r.va < region.va + region.size and region.va < r.va + r.size for r in found):
            found.append(region)
            at += region.size
    if not found:
        only = Region(p.base + limit - page, 0, page, STYLES[regime][0])  # type: ignore[arg-type]
        return RegionMap([only], page)
    return RegionMap(found, page)


def _region(
    rng: random.Random,
    p: WalkParams,
    found: list[Region[Attributes]],
    at: int,
    room: int,
    top: int,
    pages: int,
    near: bool,
) -> Region[Attributes] | None:
    """One region at offset *at*: what is far from a block boundary has at most *pages* pages."""
    page = p.granule.size
    styles = STYLES[_regime_of(p)]
    attributes = rng.choice(styles)
    if rng.random() < 0.15:
        attributes = attributes.replace(largest=page << rng.choice((0, 0, 9, 11, 13)))
    size = rng.randrange(1, pages) * page
    output = rng.randrange(top) & -page
    if rng.random() < 0.5 and attributes.largest is None:
        block = 1 << rng.choice([row.shift for row in p.levels if row.may_be_block])
        size = rng.choice(
            (3 * (1 << 29), block * rng.randrange(1, 5), block + page, 2 * block - page)
        )
        size = (size + rng.choice((0, 0, page, -page, 5 * page))) & -page
        output = output & -block | at & block - 1
        if size // block > 4096 or block == page:
            size = min(size, pages * page)
    if near and rng.random() < 0.5:
        low = found[-1]
        output, attributes = low.pa + low.size, low.attributes
        if attributes.largest or (at - output) % (
            1 << p.levels[-2].shift if p.levels[1:] else page
        ):
            size = min(size, pages * page)
    if size <= 0 or size > room or output + size > top:
        return None
    return Region(p.base + at, output, size, attributes)  # type: ignore[arg-type]


def _regime_of(p: WalkParams) -> str:
    if p.stage == 2:
        return STAGE2
    return EL1 if p.el0 else EL2


class Stretch:
    """What the map wants of *va* to *end*: the longest linear stretch of the same attributes."""

    def __init__(self, region: Region[Attributes]) -> None:
        self.va, self.end = int(region.va), region.va + region.size
        self.pa, self.attributes = int(region.pa), region.attributes


def stretches(regions: Iterable[Region[Attributes]]) -> list[Stretch]:
    """The regions with their neighbours joined where all goes on alike."""
    found: list[Stretch] = []
    for region in regions:
        last = found[-1] if found else None
        if (
            last is not None
            and last.end == region.va
            and last.pa + last.end - last.va == region.pa
            and last.attributes == region.attributes
        ):
            last.end += region.size
        else:
            found.append(Stretch(region))
    return found


def check_tables(
    memory: SegmentMemory, p: WalkParams, regions: RegionMap[Attributes], expected: Estimate
) -> None:
    """The walk of the tables is the map, every leaf is as large as legal, *expected* is exact."""
    count = TableCount()
    listed = list(runs(memory, p, count=count))
    assert all(isinstance(run, Run) for run in listed)
    found = [run for run in listed if isinstance(run, Run)]
    wanted = stretches(regions)
    at = 0
    leaves: dict[tuple[int, bool], int] = {}
    for stretch in wanted:
        va = stretch.va
        while va < stretch.end:
            run = found[at]
            assert run.va == va
            assert run.output == stretch.pa + va - stretch.va
            assert run.end <= stretch.end
            check_attributes(run.leaf, stretch.attributes)
            check_size(p, run, stretch)
            key = (run.leaf.level, run.leaf.contiguous)
            leaves[key] = leaves.get(key, 0) + run.size // run.leaf.size
            va, at = run.end, at + 1
    assert at == len(found)
    assert leaves == expected.leaves
    pages = sum(max(size // p.granule.size, 1) for size in count.tables.values())
    assert pages == expected.total
    assert len({address % p.granule.size for address in count.tables if address != p.root}) <= 1


def check_attributes(leaf: Leaf, wanted: Attributes) -> None:
    from ttbr.build import decode

    got = decode(leaf.descriptor, leaf.params)
    assert got == wanted.replace(
        largest=None, contiguous=got.contiguous, user=None if wanted.user == "---" else wanted.user
    )


def check_size(p: WalkParams, run: Run, stretch: Stretch) -> None:
    """No larger leaf, and no contiguous group, would fit where *run* is."""
    g, leaf = p.granule, run.leaf
    most = stretch.attributes.largest or 1 << 60
    assert leaf.size <= most
    for row in p.levels:
        size = 1 << row.shift
        if row.level >= leaf.level or not row.may_be_block or size > most:
            continue
        if (stretch.va - stretch.pa) % size == 0:
            first, end = -(-stretch.va // size) * size, stretch.end // size * size
            assert run.end <= first or end <= run.va or first >= end
    entries = g.contiguous.get(leaf.level)
    if not entries:
        assert not leaf.contiguous
        return
    group = entries * leaf.size
    if leaf.contiguous:
        assert stretch.attributes.contiguous
        assert run.va % group == run.size % group == leaf.output % group == 0
    elif stretch.attributes.contiguous and (stretch.va - stretch.pa) % group == 0:
        first, end = -(-run.va // group) * group, run.end // group * group
        assert first >= end


def check_addresses(
    rng: random.Random, memory: SegmentMemory, p: WalkParams, regions: RegionMap[Attributes]
) -> None:
    """Single translations: both ends of each region and the byte on either side of it."""
    for region in regions:
        for va in {int(region.va), int(region.last), rng.randrange(region.va, region.last + 1)}:
            leaf = walk_one(memory, p, va)
            assert isinstance(leaf, Leaf)
            assert leaf.output == region.pa + va - region.va
        for va in (region.va - 1, region.last + 1):
            inside = p.base <= va < p.base + (1 << p.input_bits)
            if inside and regions.lookup(va) is None:
                assert not isinstance(walk_one(memory, p, va), Leaf)


def walk_one(memory: SegmentMemory, p: WalkParams, va: int) -> object:
    if p.stage == 2:
        return translate_stage2(memory, p, va)[0]
    return table_walk(memory, p, va, [])

"""Random maps, built and walked; both planners; where tables are put; refusals."""

import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from build_maps import check_addresses, check_tables, random_params, random_regions
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import EL1, EL2, STAGE2, regime_of, stage2_of
from ttbr.build import (
    DEVICE,
    HYP_DATA,
    KERNEL_DATA,
    STAGE2_RAM,
    Arena,
    Attributes,
    Mair,
    Tables,
    build,
    builder,
    estimate,
    layout,
    regime_name,
    registers_of,
    table_params,
)
from ttbr.errors import InvalidError
from ttbr.regions import Region, RegionMap
from ttbr.walk import runs


def region(
    va: int, pa: int, size: int, attributes: Attributes = KERNEL_DATA, name: str = ""
) -> Region[Attributes]:
    return Region(va, pa, size, attributes, name)  # type: ignore[arg-type]


def one_case(seed: int) -> None:
    rng = random.Random(seed)
    p = random_params(rng)
    regions = random_regions(rng, p, regime_name(p))
    expected = estimate(regions, p)
    windows = [(0x40 << 20, expected.total + 64 << p.granule.shift)]
    if rng.random() < 0.5:
        size = 3 + rng.randrange(expected.total) << p.granule.shift
        far = 1 << p.output_bits - 1
        windows = [(far - 0x10000, 0x20000), (0x40 << 20, size), (0x40 << 30, windows[0][1] << 4)]
        if p.output_bits < 38 or p.form.low_top + 1 < p.output_bits:
            windows.pop(0)
    root = (
        rng.choice((None, 1 << 29, (1 << 29) + p.root_size * 64)) if p.root_size < 1 << 20 else None
    )
    tables = build(regions, p, arena=Arena(windows, p.granule), root=root, budget=expected.total)
    assert tables.estimate == expected
    check_tables(tables.memory(), tables.params, regions, expected)
    check_addresses(rng, tables.memory(), tables.params, regions)
    check_registers(tables)


def check_registers(tables: Tables) -> None:
    if tables.params.stage == 2:
        assert stage2_of(tables.registers, tables.features) == tables.params
        return
    regime = regime_of(tables.registers, tables.regime_name, tables.features)
    assert (regime.upper if tables.params.upper else regime.lower) == tables.params


@pytest.mark.parametrize("batch", range(6))
def test_random_maps(batch: int) -> None:
    for seed in range(batch * 50, batch * 50 + 50):
        one_case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(20))
def test_many_random_maps(batch: int) -> None:
    for seed in range(10_000 + batch * 500, 10_000 + batch * 500 + 500):
        one_case(seed)


@pytest.mark.parametrize("batch", range(3))
def test_both_planners_make_the_same_tables(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(batch * 40, batch * 40 + 40):
        rng = random.Random(seed)
        p = random_params(rng)
        regions = random_regions(rng, p, regime_name(p), most=20, pages=300)
        windows = [(1 << 22, 3 << 20), (1 << 24, 1 << 26)]
        found = []
        for spans, pages in ((10_000, 10_000), (0, 0), (10_000, 0)):
            monkeypatch.setattr(builder, "MANY_SPANS", spans)
            monkeypatch.setattr(builder, "MANY_PAGES", pages)
            tables = build(regions, p, arena=Arena(windows, p.granule))
            found.append((tables.pages(), tables.estimate))
        assert found[0] == found[1] == found[2]


def test_many_regions() -> None:
    p, page = table_params(EL1, "4K", 48), 4096
    rng = random.Random(7)
    regions, at = [], 0
    for _ in range(1000):
        at += rng.randrange(1, 1 << 12) * page
        size = rng.choice((rng.randrange(1, 64) * page, 1 << 21, (1 << 25) + page))
        pa = rng.randrange(1 << 26) << 21 | at & (1 << 21) - 1
        regions.append(region(at, pa, size, KERNEL_DATA.replace(contiguous=True)))
        at += size
    tables = build(RegionMap(regions), p, base=1 << 47)
    assert tables.estimate is not None
    check_tables(tables.memory(), tables.params, RegionMap(regions), tables.estimate)


def test_a_small_map_is_built_without_numpy() -> None:
    code = (
        "import sys; from ttbr.build import *; from ttbr.regions import Region\n"
        "p = table_params('EL1&0', '4K', 48)\n"
        "t = build([Region(0, 1 << 39, 3 << 29, KERNEL_DATA)], p, base=4096)\n"
        "assert t.estimate.total == 3, t.estimate\n"
        "assembly(t)\n"
        "sys.exit('numpy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# 4K with DS=1: descriptors change form at 2^50; the 64K form at 2^48.
@pytest.mark.parametrize(("granule", "carry"), [("4K", 50), ("16K", 50), ("64K", 48)])
def test_output_across_the_carry(granule: str, carry: int) -> None:
    p = table_params(EL1, granule, 52, ds=granule != "64K", lpa=granule == "64K")
    size = 3 * p.granule.entries * p.granule.size
    regions = RegionMap(
        [
            region(0, (1 << carry) - size // 2, size, Attributes(largest=p.granule.size)),
            region(1 << 45, (1 << carry) - (1 << 44), 1 << 45),
        ],
        p.granule.size,
    )
    needed = estimate(regions, p)
    assert needed.tables[3] == 3
    low = (1 << carry) - (needed.total - 2) * p.granule.size
    tables = build(regions, p, base=low)
    assert tables.estimate is not None
    check_tables(tables.memory(), tables.params, regions, tables.estimate)
    check_registers(tables)


def test_extra_block_levels_of_52_bits() -> None:
    found = {}
    for granule in GRANULES:
        wide = {"lpa": True} if granule == "64K" else {"ds": True}
        p = table_params(EL1, granule, 52, **wide)
        regions = RegionMap([region(0, 0, 1 << 47)], p.granule.size)
        found[granule] = estimate(regions, p).leaves
    # 512 GB, 64 GB and 4 TB blocks.
    assert found == {
        "4K": {(0, False): 256},
        "16K": {(1, False): 2048},
        "64K": {(1, False): 32},
    }


def test_the_figures_of_a_linear_map() -> None:
    p = table_params(EL1, "4K", 48)
    # 1.5 GB and a page from 512 GB: one 1 GB block, 256 2 MB blocks, one page.
    needed = estimate([region(1 << 39, 1 << 39, (3 << 29) + 4096)], p)
    assert needed.leaves == {(1, False): 1, (2, False): 256, (3, False): 1}
    assert needed.tables == {0: 1, 1: 1, 2: 1, 3: 1}
    assert needed.text() == "4 tables (1 at level 0, 1 at level 1, 1 at level 2, 1 at level 3)"
    assert needed.bytes == 4 * 4096


def test_pages_only() -> None:
    p = table_params(EL2, "4K", 39)
    needed = estimate([region(0, 0, 1 << 30, HYP_DATA.replace(largest=4096))], p)
    assert needed.leaves == {(3, False): 1 << 18}
    assert needed.tables == {1: 1, 2: 1, 3: 512}


def test_concatenated_root() -> None:
    p = table_params(STAGE2, "4K", 40)
    assert (p.start_level, p.root_size) == (1, 0x2000)
    regions = RegionMap([region(1 << 39, 1 << 39, 1 << 30, STAGE2_RAM)])
    tables = build(regions, p, arena=Arena([(0x1000, 0x10000)]))
    assert tables.root == 0x2000
    assert tables.counts == {1: 2, 2: 0, 3: 0}
    check_tables(tables.memory(), tables.params, regions, tables.estimate)  # type: ignore[arg-type]
    later = build(RegionMap([region(0, 0, 4096, STAGE2_RAM)]), p, arena=tables.arena)
    assert later.root == 0x4000


def test_small_root_at_its_own_place() -> None:
    p = table_params(EL1, "4K", 25)
    assert p.root_size == 128
    regions = RegionMap([region(0, 0x4000_0000, 0x40_0000)])
    tables = build(regions, p, base=0x9000, root=0x8180)
    assert tables.root == 0x8180
    assert tables.registers["TTBR0_EL1"] == 0x8180
    assert {a: len(d) for a, d in tables.pages().items()} == {0x8180: 128}
    # Another one in the same page.
    more = build(regions, p, arena=tables.arena, root=0x8000)
    assert sorted(more.pages()) == [0x8000, 0x8180]
    with pytest.raises(InvalidError, match="root 0x8140 is not aligned to its size, 0x80"):
        build(regions, p, base=0x9000, root=0x8140)
    wide = table_params(EL1, "4K", 22, ds=True)
    with pytest.raises(InvalidError, match="root 0x8020 is not aligned to its size, 0x40"):
        build(RegionMap([region(0, 0, 4096)]), wide, base=0x9000, root=0x8020)


def test_root_inside_the_window_is_kept_free() -> None:
    p = table_params(EL1, "4K", 48)
    tables = build([region(0, 0, 4096)], p, base=0x8000, root=0x9000)
    assert sorted(tables.pages()) == [0x8000, 0x9000, 0xA000, 0xB000]


def test_both_halves_share_registers() -> None:
    arena, mair = Arena.at(0x4000_0000), Mair()
    low = build([region(0x1000, 0, 4096)], table_params(EL1, "4K", 48), arena=arena, mair=mair)
    p = table_params(EL1, "4K", 39, upper=True)
    high = build([region(p.base, 0x900_0000, 4096, DEVICE)], p, arena=arena, mair=mair)
    registers = registers_of(low.params, high.params)
    regime = regime_of(registers, EL1)
    assert regime.halves == (low.params, high.params)
    assert registers["MAIR_EL1"] == 0x04FF
    assert [run.va for run in runs(arena.memory(), high.params)] == [p.base]
    with pytest.raises(InvalidError, match="do not belong together"):
        registers_of(low.params, table_params(EL2, "4K", 48))
    with pytest.raises(InvalidError, match="disagree about output_bits"):
        registers_of(low.params, table_params(EL1, "4K", 48, upper=True, output_bits=40))


def test_stage2_beside_stage1() -> None:
    one, two = table_params(EL1, "4K", 48), table_params(STAGE2, "4K", 40)
    registers = registers_of(one, two)
    regime = regime_of(registers, EL1)
    assert regime.lower == one
    assert regime.stage2 == two


def test_a_given_mair_is_not_extended() -> None:
    p = table_params(EL1, "4K", 48, mair=0x00_44_FF)
    tables = build([region(0, 0, 4096, DEVICE.replace(memory="normal-nc"))], p, base=0x1000)
    assert next(runs(tables.memory(), tables.params)).leaf.descriptor >> 2 & 7 == 1  # type: ignore[union-attr]
    with pytest.raises(InvalidError, match=r"is given and has no Device-nGnRE \(0x04\)"):
        build([region(0, 0, 4096, DEVICE)], p, base=0x1000)


def test_into_a_buffer() -> None:
    p, regions = table_params(EL1, "4K", 48), [region(0, 0, 3 << 20)]
    buffer = bytearray(b"\xff" * 0x8000)
    tables = build(regions, p, base=0x1000, buffer=buffer)
    assert tables.pages() == build(regions, p, base=0x1000).pages()
    assert buffer[0x4000:] == b"\xff" * 0x4000
    with pytest.raises(InvalidError, match="buffer has 4096 bytes, the tables need 16384"):
        build(regions, p, base=0x1000, buffer=bytearray(4096))


@pytest.mark.parametrize("size", [1, 3 << 12, 1 << 20])
def test_chunks_are_the_same_tables(size: int) -> None:
    p = table_params(EL1, "4K", 48)
    regions = [region(0x5000, 0x7000, 3 << 20), region(1 << 40, 1 << 30, 5 << 30)]
    windows = [(0x10_0000, 0x2000), (0x30_0000, 0x1000), (0x40_0000, 0x10_0000)]
    placed = layout(regions, p, arena=Arena(windows), root=0x8000)
    streamed = {}
    for address, view in placed.chunks(size):
        for at in range(0, len(view), 4096):
            streamed[address + at] = bytes(view[at : at + 4096])
    assert streamed == build(regions, p, arena=Arena(windows), root=0x8000).pages()


P48 = table_params(EL1, "4K", 48)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build([region(0, 0, 4096)], P48), "a base address or an arena"),
        (lambda: build([region(0, 0, 4096)], P48, base=0x1800), "not aligned to the 4K page"),
        (
            lambda: build([region(0, 0, 4096)], P48, base=0x1000, budget=3),
            r"needs 4 tables \(1 at level 0, 1 at level 1, 1 at level 2, 1 at level 3\), the budget is 3",
        ),
        (
            lambda: build([region(0, 0, 4096)], P48, arena=Arena([(0, 0x2000)])),
            "needs 4 tables .* the table windows have 2 pages",
        ),
        (
            lambda: build([region(0, 0, 4096)], P48, arena=Arena([(0, 0x3000)])),
            "3 pages are needed, 2 are left",
        ),
        (
            lambda: build(
                [region(0, 0, 0x10000)], table_params(EL1, "64K", 48), arena=Arena([(0, 0x4000)])
            ),
            "the arena has 4K pages, the tables 64K",
        ),
        (
            lambda: build([region(0, 0, 4096)], P48, base=(1 << 48) - 0x2000),
            "tables up to 0x1000000001fff are beyond the 48 bits of TTBR0_EL1",
        ),
        (
            lambda: build([region(0, 0x1000, 0x1000)], table_params(EL1, "16K", 48), base=0),
            "pa 0x1000 is not a multiple of the 16K page",
        ),
        (
            lambda: build([region(1 << 48, 0, 0x1000, name="far")], P48, base=0),
            "region far 0x1000000000000-0x1000000000fff: outside the 48-bit range of TTBR0_EL1",
        ),
        (
            lambda: build([region(0, 1 << 48, 0x1000)], P48, base=0),
            "pa 0x1000000000000, size 0x1000: beyond 48 output bits",
        ),
        (
            lambda: build([region(0, 0, 0x2000), region(0x1000, 0, 0x1000)], P48, base=0),
            "region 0x0-0x1fff overlaps region 0x1000-0x1fff",
        ),
        (
            lambda: build([region(0, 0, 0x1000, Attributes(access="x"), "odd")], P48, base=0),
            "region odd 0x0-0xfff: access --x/---: TTBR0_EL1 cannot say it",
        ),
        (
            lambda: build(
                [region(0, 0, 0x10000, Attributes(largest=4096))],
                table_params(EL1, "64K", 48),
                base=0,
            ),
            "largest leaf 4K: a page of TTBR0_EL1 has 64K",
        ),
    ],
)
def test_refusals(make: Callable[[], Tables], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        make()


def test_a_refused_build_leaves_the_arena_alone() -> None:
    arena = Arena([(0x1000, 0x3000)])
    with pytest.raises(InvalidError, match="3 pages are needed, 2 are left"):
        build([region(0, 0, 4096)], P48, arena=arena)
    assert arena.free_windows == [(0x1000, 0x3000)]
    assert not arena.segments


def test_two_builds_in_one_arena_do_not_meet() -> None:
    arena = Arena([(0x10000, 0x4000), (0x20000, 0x8000)])
    one = build([region(0, 0, 4096)], P48, arena=arena)
    two = build([region(0, 0x5000, 4096)], P48, arena=arena)
    assert len(arena.segments) == 4
    outputs = [next(runs(arena.memory(), t.params)).output for t in (one, two)]  # type: ignore[union-attr]
    assert outputs == [0, 0x5000]


def test_an_empty_map_has_a_root_only() -> None:
    tables = build(RegionMap([]), P48, base=0x1000)
    assert tables.counts == {0: 1, 1: 0, 2: 0, 3: 0}
    assert tables.pages() == {0x1000: bytes(4096)}


@pytest.mark.slow
def test_one_terabyte_of_pages() -> None:
    import numpy as np

    p = P48
    regions = [region(1 << 40, 1 << 41, 1 << 40, KERNEL_DATA.replace(largest=4096))]
    needed = estimate(regions, p)
    assert needed.leaves == {(3, False): 1 << 28}
    assert needed.tables == {0: 1, 1: 2 - 0, 2: 1024, 3: 1 << 19}
    sums = 0
    for _, view in layout(regions, p, base=1 << 32).chunks(1 << 22):
        words = np.frombuffer(view, "<u8")
        sums += int(np.count_nonzero(words))
    assert sums == (1 << 28) + (1 << 19) + 1024 + 2

"""Listings: order, merging, holes, hostile trees; and page by page the same as `translate`."""

import itertools
import random
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trees import (
    AF,
    BLOCK,
    CONT,
    EL0,
    ISH,
    PAGE,
    PXN_TABLE,
    RO,
    RO_TABLE,
    S2_NORMAL,
    S2_RW,
    SIZES,
    TABLE,
    TG0,
    UXN_TABLE,
    Tree,
    el1_registers,
    stage2_registers,
)
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import EL1, Regime, WalkParams, regime_of, stage2_of, walk_params
from ttbr.errors import InvalidError
from ttbr.memory import SparseMemory
from ttbr.record import replace
from ttbr.walk import Hole, Mapping, Run, TableCount, Unreadable, combine, runs, translate

OUT = 0x4000_0000
K, M, G = 1 << 10, 1 << 20, 1 << 30


def params(root: int, bits: int = 48, granule: str = "4K", **flags: object) -> WalkParams:
    return walk_params("T", GRANULES[granule], bits, root, **flags)  # type: ignore[arg-type]


def listed(tree: Tree, p: WalkParams, **options: int) -> list[tuple[object, ...]]:
    """(address, size, output or reason) of each item."""
    found: list[tuple[object, ...]] = []
    for item in runs(tree.memory, p, **options):  # type: ignore[arg-type]
        if isinstance(item, Run):
            found.append((item.va, item.size, item.output))
        else:
            found.append((item.va, item.size, getattr(item, "reason", "hole")))
    return found


# --- merging -------------------------------------------------------------------------------------


def test_contiguous_pages_are_one_run() -> None:
    tree = Tree()
    pages = {i: OUT + (i << 12) | AF | PAGE for i in range(4, 20)}
    pages |= {i: 2 * OUT + (i << 12) | AF | PAGE for i in range(20, 22)}  # gap in the output
    pages |= {i: 2 * OUT + (i << 12) | AF | RO | PAGE for i in range(22, 24)}  # other attributes
    pages |= dict.fromkeys(range(30, 32), OUT | AF | PAGE)  # the same page twice
    root = tree.table(pages)
    assert listed(tree, params(root, 21)) == [
        (4 << 12, 16 << 12, OUT + (4 << 12)),
        (20 << 12, 2 << 12, 2 * OUT + (20 << 12)),
        (22 << 12, 2 << 12, 2 * OUT + (22 << 12)),
        (30 << 12, 4096, OUT),
        (31 << 12, 4096, OUT),
    ]


def test_runs_go_on_over_table_borders() -> None:
    tree = Tree()
    tables = [
        tree.table({i: OUT + (n * 512 + i << 12) | AF | PAGE for i in range(512)}) for n in range(3)
    ]
    root = tree.table({n: table | TABLE for n, table in enumerate(tables)})
    assert listed(tree, params(root, 30)) == [(0, 6 * M, OUT)]
    tree.set(root, 1, tables[1] | TABLE | RO_TABLE)  # another limit: not alike
    assert [size for _, size, _ in listed(tree, params(root, 30))] == [2 * M] * 3
    assert listed(tree, params(root, 30, hpd=True)) == [(0, 6 * M, OUT)]


def test_levels_do_not_mix() -> None:
    tree = Tree()
    pages = tree.table({i: OUT + 2 * M + (i << 12) | AF | PAGE for i in range(512)})
    root = tree.table({0: OUT | AF | BLOCK, 1: pages | TABLE, 2: OUT + 4 * M | AF | BLOCK})
    found = [item for item in runs(tree.memory, params(root, 30)) if isinstance(item, Run)]
    assert [(run.va, run.size, run.leaf.level) for run in found] == [
        (0, 2 * M, 2),
        (2 * M, 2 * M, 3),
        (4 * M, 2 * M, 2),
    ]


def test_contiguous_bit_is_an_attribute_of_a_run() -> None:
    tree = Tree()
    root = tree.table({i: OUT + (i << 12) | AF | (CONT if i < 16 else 0) | PAGE for i in range(32)})
    found = [item for item in runs(tree.memory, params(root, 21)) if isinstance(item, Run)]
    assert [(run.size, run.leaf.contiguous) for run in found] == [(64 * K, True), (64 * K, False)]


def test_52_bit_output_is_not_an_attribute() -> None:
    """A run crosses the border where bits 9:8 (LPA2) or 15:12 (LPA) of the descriptor change."""
    tree = Tree()
    lpa2 = {0: (1 << 50) - 4096 & ((1 << 50) - 1) | AF | PAGE, 1: 1 << 8 | AF | PAGE}
    root = tree.table(lpa2)
    assert listed(tree, params(root, 21, ds=True, sh=3)) == [(0, 8192, (1 << 50) - 4096)]
    wide = Tree("64K")
    root = wide.table({0: 0xFFFF_FFFF_0000 | AF | PAGE, 1: 0x1000 | AF | PAGE})
    assert listed(wide, params(root, 29, "64K", lpa=True)) == [(0, 2 << 16, 0xFFFF_FFFF_0000)]


def test_upper_half_counts_from_its_base() -> None:
    tree = Tree()
    root = tree.chain((511, 511, 511), OUT | AF | PAGE)
    p = params(root, 39, upper=True)
    assert listed(tree, p) == [((1 << 64) - 4096, 4096, OUT)]
    (run,) = runs(tree.memory, p)
    assert isinstance(run, Run)
    assert run.end == 1 << 64


def test_holes_fill_what_is_left() -> None:
    tree = Tree()
    pages = tree.table({3: OUT | AF | PAGE, 4: BLOCK})  # a reserved type maps nothing
    root = tree.table({1: pages | TABLE, 5: 0, 6: OUT | AF | BLOCK})
    assert listed(tree, params(root, 30), holes=True) == [
        (0, 2 * M, "hole"),
        (2 * M, 3 * 4096, "hole"),
        (2 * M + 3 * 4096, 4096, OUT),
        (2 * M + 4 * 4096, 508 * 4096, "hole"),
        (4 * M, 8 * M, "hole"),
        (12 * M, 2 * M, OUT),
        (14 * M, G - 14 * M, "hole"),
    ]


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, (1 << 64) - 1, [0, 2, 4, 511]),
        (4 * M, (1 << 64) - 1, [2, 4, 511]),
        (0, 4 * M - 1, [0]),
        (0, 4 * M, [0, 2]),
        (4 * M + 4 * K, 8 * M - 1, []),
        (8 * M + 5, 8 * M + 5, [4]),
        (10 * M, 20 * M, []),
        (1 << 40, (1 << 64) - 1, []),
    ],
)
def test_range(low: int, high: int, wanted: list[int]) -> None:
    """Both ends are included; a leaf that the range touches is listed whole."""
    tree = Tree()
    pages = tree.table({0: OUT | AF | PAGE})
    blocks = {index: (index + 1) * G | AF | BLOCK for index in (0, 4, 511)}
    root = tree.table(blocks | {2: pages | TABLE})
    found = listed(tree, params(root, 30), low=low, high=high)
    assert [va for va, _, _ in found] == [index * 2 * M for index in wanted]
    assert {size for va, size, _ in found if va != 4 * M} <= {2 * M}


def test_inherited_limits_stay_with_the_run() -> None:
    tree = Tree()
    root = tree.chain((0, 0, 0, 0), OUT | AF | EL0 | PAGE, PXN_TABLE | UXN_TABLE)
    (run,) = runs(tree.memory, params(root, el0=True))
    assert isinstance(run, Run)
    assert run.leaf.hierarchical == PXN_TABLE | UXN_TABLE


# --- what cannot be read -------------------------------------------------------------------------


def test_missing_table_in_its_place() -> None:
    tree = Tree()
    root = tree.table({0: OUT | AF | BLOCK, 1: 0x7000_0000 | TABLE, 2: OUT | AF | BLOCK})
    assert listed(tree, params(root, 30)) == [
        (0, 2 * M, OUT),
        (2 * M, 2 * M, "no memory at 0x70000000"),
        (4 * M, 2 * M, OUT),
    ]


def test_missing_root() -> None:
    assert listed(Tree(), params(0x7000_0000, 39)) == [(0, 1 << 39, "no memory at 0x70000000")]


def test_table_and_root_beyond_the_output_size() -> None:
    tree = Tree()
    root = tree.table({1: 1 << 40 | TABLE})
    (item,) = runs(tree.memory, params(root, 30, output_bits=36))
    assert isinstance(item, Unreadable)
    assert (item.va, item.size, item.table) == (2 * M, 2 * M, 1 << 40)
    (item,) = runs(tree.memory, params(1 << 40, 30, output_bits=36))
    assert isinstance(item, Unreadable)
    assert item.reason == "table 0x10000000000 is beyond 36 bits"


def test_output_beyond_the_output_size_is_not_mapped() -> None:
    """`translate` says Address size fault: a listing must not show a plain mapping."""
    tree = Tree()
    root = tree.table({1: OUT | AF | PAGE, 2: 1 << 40 | AF | PAGE})
    found = list(runs(tree.memory, params(root, 21, output_bits=36)))
    assert [item.va for item in found if isinstance(item, Run)] == [4096]
    assert any(isinstance(item, Unreadable) and item.va == 8192 for item in found)


def test_inconsistent_stage2_is_said_at_once() -> None:
    p = stage2_of(stage2_registers(0x8000_0000, SL0=0, T0SZ=16))
    (item,) = runs(Tree().memory, p)
    assert isinstance(item, Unreadable)
    assert "start level" in item.reason


@pytest.mark.parametrize("granule", SIZES)
@pytest.mark.parametrize("tables", [1, 3])
def test_tree_whose_every_entry_is_a_table_of_its_own(granule: str, tables: int) -> None:
    """2^36 mappings from one page: the listing stops by itself, early, and says why."""
    tree = Tree(granule)
    made = [tree.table() for _ in range(tables)]
    entries = SIZES[granule] // 8
    for n, table in enumerate(made):
        after = made[(n + 1) % tables] | AF | TABLE
        for index in range(entries):
            tree.set(table, index, after)
    last: Run | Hole | Unreadable | None = None
    for count, item in enumerate(runs(tree.memory, params(made[0], 48, granule))):
        assert count < 1 << 20, "no end in sight"
        last = item
    assert isinstance(last, Unreadable)
    assert "over and over" in last.reason


def test_one_self_reference_is_listed_whole() -> None:
    """A recursive slot is no hostile tree: 512 tables show as pages at the bottom."""
    tree = Tree()
    root = tree.chain((0, 0, 0, 0), OUT | AF | PAGE)
    tree.set(root, 511, root | AF | TABLE)
    count = TableCount()
    found = list(runs(tree.memory, params(root), count=count))
    assert all(isinstance(item, Run) for item in found)
    assert len(count.tables) == 4
    assert (found[0].va, found[0].size) == (0, 4096)
    assert found[-1].va == (1 << 48) - 4096  # the root itself, as a page


def test_table_count() -> None:
    tree = Tree()
    shared = tree.table({0: OUT | AF | PAGE})
    root = tree.table({0: shared | TABLE, 7: shared | TABLE, 9: OUT | AF | BLOCK})
    count = TableCount()
    assert len(list(runs(tree.memory, params(root, 30), count=count))) == 3
    assert (set(count.tables), count.table_bytes, count.visits) == ({root, shared}, 8192, 3)
    small = TableCount()
    list(runs(tree.memory, params(root, 25), count=small))
    assert small.tables[root] == 16 * 8


# --- the same as translate -----------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A random tree: granule, input bits and what decides its entries."""

    granule: str
    bits: int
    seed: int
    wide: bool
    ha: bool


def random_tree(shape: Shape) -> tuple[Tree, WalkParams]:
    """A tree of a few tables with leaves that often go on from one another, and some surprises."""
    choose = random.Random(shape.seed)
    g = GRANULES[shape.granule]
    tree = Tree(shape.granule)
    p = walk_params(
        "T",
        g,
        shape.bits,
        0,
        ds=shape.wide and g.shift != 16,
        lpa=shape.wide,
        sh=3 if shape.wide and g.shift != 16 else None,
        ha=shape.ha,
        el0=True,
        mair=0x4404FF,
    )
    made: list[int] = []

    def build(depth: int) -> int:
        row = p.levels[depth]
        table = tree.table()
        made.append(table)
        index, output = 0, choose.getrandbits(48)
        attributes = AF
        for _ in range(choose.randrange(2, 9)):
            index += choose.choice((0, 0, 1, 3, choose.randrange(row.mask + 1)))
            kind = choose.choice(["leaf", "leaf", "leaf", "table", "odd", "far"])
            if kind == "leaf":
                output = choose.choice((output, choose.getrandbits(52)))
                attributes = choose.choice(
                    (attributes, AF, RO | AF, CONT | AF, 0, choose.getrandbits(2) << 6)
                )
                upper = choose.choice((0, 0, 1 << 54, 1 << 53))
                for _ in range(choose.randrange(1, 6)):
                    size = 1 << row.shift
                    place = p.form.place(output % (1 << p.form.address_bits) & ~(size - 1))
                    tree.set(
                        table,
                        index & row.mask,
                        place | attributes | upper | (PAGE if row.level == 3 else BLOCK),
                    )
                    index, output = index + 1, output + size
            elif kind == "table" and row.level < 3 and len(made) < 12:
                limits = choose.getrandbits(5) << 59 if choose.random() < 0.5 else 0
                tree.set(table, index & row.mask, build(depth + 1) | TABLE | limits)
            elif kind == "far" and row.level < 3:
                tree.set(table, index & row.mask, 0x7000_0000 | TABLE)
            elif (
                kind == "odd" and made and len(made) < 12
            ):  # a table met before, or a reserved type
                again = choose.choice(made) | TABLE | AF if row.level > 1 else BLOCK
                tree.set(table, index & row.mask, again)
        return table

    return tree, replace(p, root=build(0))


def regime_for(p: WalkParams) -> Regime:
    return replace(regime_of(el1_registers(0), EL1), lower=p, upper=None)


def probe(choose: random.Random, va: int, size: int, step: int) -> list[int]:
    """Each page of a small part; of a large one the ends and some between."""
    pages = size // step
    if pages <= 40:
        return [va + i * step for i in range(pages)]
    picked = [0, 1, pages - 2, pages - 1, *(choose.randrange(pages) for _ in range(12))]
    return [va + i * step for i in picked]


SHAPES = st.builds(
    Shape,
    st.sampled_from(list(TG0)),
    st.sampled_from([18, 25, 30, 36, 39, 42, 47, 48]),
    st.integers(0, 1 << 32),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(SHAPES)
def test_runs_agree_with_translate(shape: Shape) -> None:
    """Runs, holes and unreadable parts tile the range; each page of each is what a walk finds."""
    tree, p = random_tree(shape)
    regime, memory = regime_for(p), tree.memory
    choose = random.Random(shape.seed)
    at = p.base
    for item in runs(memory, p, holes=True):
        assert item.va == at
        assert item.size > 0
        at += item.size
        for va in probe(choose, item.va, item.size, p.granule.size):
            check_page(item, va, translate(memory, regime, va | 0x7F8))
    assert at == p.base + (1 << p.input_bits)


def check_page(item: Run | Hole | Unreadable, va: int, answer: Mapping | Fault) -> None:
    if isinstance(item, Hole):
        assert isinstance(answer, Fault)
        assert (answer.kind, answer.level) == (FaultKind.TRANSLATION, item.level)
    elif isinstance(item, Unreadable):
        assert isinstance(answer, Fault)
        assert answer.kind in (FaultKind.EXTERNAL_ABORT, FaultKind.ADDRESS_SIZE)
    elif isinstance(answer, Fault):
        assert answer.kind is FaultKind.ACCESS_FLAG
        assert not (item.leaf.descriptor & AF)
        assert not (item.leaf.params.ha)
        assert answer.level == item.leaf.level
    else:
        assert answer.pa == item.output + (va - item.va) + 0x7F8
        assert answer.leaf is not None
        ours, theirs = item.leaf, answer.leaf
        for name in ("level", "size", "permissions", "attr", "shareability", "contiguous"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.hierarchical == theirs.hierarchical


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_runs_are_as_long_as_they_can_be(shape: Shape) -> None:
    """No two neighbours could have been one."""
    tree, p = random_tree(shape)
    found = [item for item in runs(tree.memory, p) if isinstance(item, Run)]
    for left, right in itertools.pairwise(found):
        a, b = left.leaf, right.leaf
        same = [getattr(a, n) == getattr(b, n) for n in ("level", "hierarchical", "permissions")]
        together = left.end == right.va and left.output + left.size == right.output
        outside = ~(p.form.low_mask(a.shift) | p.form.high_mask)
        assert not (together and all(same) and (a.descriptor ^ b.descriptor) & outside == 0)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 48) - 1))
def test_a_range_is_a_part_of_the_whole(shape: Shape, one: int, other: int) -> None:
    low, high = sorted((one % (1 << shape.bits), other % (1 << shape.bits)))
    tree, p = random_tree(shape)
    step = p.granule.size

    def pages(**options: int) -> set[tuple[int, int]]:
        found = set()
        for item in runs(tree.memory, p, **options):  # type: ignore[arg-type]
            if isinstance(item, Run):
                first = max(item.va, low & -step)
                for va in range(first, min(item.end, high + 1, first + 64 * step), step):
                    found.add((va, item.output + va - item.va))
        return found

    assert pages(low=low, high=high) == pages()


# --- stage 2 -------------------------------------------------------------------------------------

S2 = AF | ISH | S2_RW | S2_NORMAL


def two_stages(entries: dict[int, int]) -> tuple[Tree, Regime]:
    """Stage 1 maps VA 0 to IPA 0x4000_0000, 4 MiB; stage 2 maps that GiB by *entries* of level 2."""
    tree = Tree()
    middle = tree.table(entries)
    stage2 = tree.table({1: middle | TABLE, 2: 0x8000_0000 | S2 | BLOCK}, count=2)
    below = tree.table({0: OUT | AF | BLOCK, 1: OUT + 2 * M | AF | BLOCK})
    root = tree.table({0: below | TABLE})
    registers = el1_registers(root, T0SZ=25) | stage2_registers(stage2)
    return tree, regime_of(registers, EL1)


def test_runs_under_stage2_read_tables_through_it() -> None:
    tree, regime = two_stages({0: 0x9000_0000 | S2 | BLOCK, 1: 0x9020_0000 | S2 | BLOCK})
    (run,) = runs(tree.memory, regime.half(0), regime)
    assert isinstance(run, Run)
    assert (run.va, run.size, run.output) == (0, 4 * M, OUT)
    (part,) = combine(tree.memory, regime, run)
    assert isinstance(part, Run)
    assert (part.va, part.size, part.output, part.leaf.output) == (0, 4 * M, 0x9000_0000, OUT)


def test_combine_splits_by_stage2() -> None:
    pages = Tree(base=0xA000_0000)
    last = pages.table({i: 0xB000_0000 + (i << 12) | S2 | PAGE for i in range(3)})
    tree, regime = two_stages({0: last | TABLE, 1: 0x9000_0000 | S2 | BLOCK})
    tree.tables |= pages.tables
    (run,) = runs(tree.memory, regime.half(0), regime)
    assert isinstance(run, Run)
    parts = list(combine(tree.memory, regime, run))
    assert [(part.va, part.size) for part in parts] == [
        (0, 3 << 12),
        (3 << 12, 509 << 12),
        (2 * M, 2 * M),
    ]
    assert isinstance(parts[1], Unreadable)
    assert "Translation fault" in parts[1].reason
    for part in parts:
        answer = translate(tree.memory, regime, part.va + 8)
        if isinstance(part, Run):
            assert isinstance(answer, Mapping)
            assert answer.pa == part.output + 8
        else:
            assert isinstance(answer, Fault)


def test_tables_that_stage2_does_not_map() -> None:
    tree, regime = two_stages({})
    registers = regime.half(0)
    broken = replace(regime, lower=replace(registers, root=0xC000_0000))
    (item,) = runs(tree.memory, broken.half(0), broken)
    assert isinstance(item, Unreadable)
    assert "0xc0000000" in item.reason
    assert "Translation fault" in item.reason


def test_invalid_stage2_is_raised() -> None:
    tree, regime = two_stages({})
    broken = replace(regime, stage2=InvalidError("VTCR_EL2.TG0=0b11 is reserved"))
    with pytest.raises(InvalidError, match="VTCR_EL2"):
        list(runs(tree.memory, broken.half(0), broken))


# --- anything at all -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from(list(TG0)),
    st.booleans(),
    st.sampled_from([30, 39, 48]),
)
def test_random_bytes_as_tables(seed: int, granule: str, wide: bool, bits: int) -> None:
    """Bounded: 64 KiB of noise never lists for long, and never raises."""
    data = random.Random(seed).randbytes(1 << 16)
    memory = SparseMemory({0: data})
    g = GRANULES[granule]
    p = walk_params("T", g, bits, 0, ds=wide and g.shift != 16, lpa=wide)
    begin = time.monotonic()
    for count, item in enumerate(runs(memory, p, holes=True)):
        assert item.size > 0
        assert count < 100_000
    assert time.monotonic() - begin < 2

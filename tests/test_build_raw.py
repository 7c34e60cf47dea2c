"""Tables by hand: a root over two trees, a root that refers to itself."""

import pytest

from ttbr.arch.regime import EL1, EL2, WalkParams, regime_of
from ttbr.build import (
    DEVICE,
    HYP_DATA,
    HYP_TEXT,
    KERNEL_DATA,
    Arena,
    Mair,
    RawTables,
    build,
    table_params,
)
from ttbr.errors import InvalidError
from ttbr.record import replace
from ttbr.regions import Region, RegionMap
from ttbr.walk import Run, runs


def test_merged_root() -> None:
    """The extra-level root of arm64 KVM (commit e4c5a6851058): [0] HYP, [idmap >> 39] ID map."""
    arena, mair = Arena.at(0x80_1000_0000), Mair()
    narrow = table_params(EL2, "4K", 39)
    text = Region(0x40_0000, 0x80_0040_0000, 0x3000, HYP_TEXT)  # type: ignore[arg-type]
    idmap = Region(0x20_0000, 0x80_0020_0000, 0x1000, HYP_TEXT)  # type: ignore[arg-type]
    hyp = build([text], narrow, arena=arena, mair=mair)
    boot = build([idmap], narrow, arena=arena, mair=mair)
    raw = RawTables(table_params(EL2, "4K", 48), arena, mair)
    root = raw.new_root()
    raw.set_table(root, 0, hyp.root)
    raw.set_table(root, 0x80_0020_0000 >> 39, boot.root)
    tables = raw.tables(root)
    p = regime_of(tables.registers, EL2).lower
    assert isinstance(p, WalkParams)
    found = [run for run in runs(tables.memory(), p) if isinstance(run, Run)]
    assert [(r.va, r.output, r.size) for r in found] == [
        (0x40_0000, 0x80_0040_0000, 0x3000),
        (0x80_0020_0000, 0x80_0020_0000, 0x1000),
    ]
    assert tables.counts == {}
    assert p.mair == mair.value == 0xFF


def test_self_reference() -> None:
    raw = RawTables(table_params(EL1, "4K", 48), Arena.at(0x4000_0000))
    root = raw.new_root()
    raw.set_table(root, 0, root, extra=1 << 60)
    assert raw.get(root, 0) == root | 1 << 60 | 3
    p = replace(raw.tables(root).params, input_bits=39, start_level=1, levels=())
    assert raw.arena.load(p.root) & 3 == 3


def test_leaves() -> None:
    raw = RawTables(table_params(EL2, "4K", 30), Arena.at(0x4000_0000))
    root, last = raw.new_root(), raw.new_table()
    raw.set_leaf(root, 1, 2, 0x8020_0000, HYP_DATA)
    raw.set_table(root, 2, last)
    for index in range(16):
        raw.set_leaf(last, index, 3, 0x9000_0000 + index * 4096, DEVICE, contiguous=True)
    raw.set_leaf(last, 16, 3, 0xA000_0000, raw.get(last, 15) & 0xFFF)
    tables = raw.tables(root)
    wanted = [(0x20_0000, 2, False), (0x40_0000, 3, True), (0x41_0000, 3, False)]
    found = [run for run in runs(tables.memory(), tables.params) if isinstance(run, Run)]
    assert [(r.va, r.leaf.level, r.leaf.contiguous) for r in found] == wanted
    with pytest.raises(InvalidError, match="level 0 has no blocks with the 4K granule"):
        raw.set_leaf(root, 0, 0, 0, HYP_DATA)
    with pytest.raises(InvalidError, match="pa 0x1000 is not aligned to a level 2 leaf"):
        raw.set_leaf(root, 0, 2, 0x1000, HYP_DATA)
    with pytest.raises(InvalidError, match="table 0x1010 is not aligned"):
        raw.set_table(root, 0, 0x1010)
    with pytest.raises(InvalidError, match="entry -1"):
        raw.set(root, -1, 0)
    with pytest.raises(InvalidError, match="root 0x40000008 is not aligned"):
        raw.tables(root + 8)


def test_a_built_tree_can_be_changed_by_hand() -> None:
    tables = build(
        RegionMap([Region(0, 0, 4096, KERNEL_DATA)]),  # type: ignore[arg-type]
        table_params(EL1, "4K", 48),
        base=0x1000,
    )
    raw = RawTables(tables.params, tables.arena, tables.mair)
    raw.set(tables.root, 511, raw.get(tables.root, 0))
    assert [run.va for run in runs(tables.memory(), tables.params)] == [0, 511 << 39]

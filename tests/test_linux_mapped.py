"""What the tables of a plan map against what was planned; and tables that are wrong on purpose."""

import struct
from collections.abc import Callable

import pytest

from ttbr.boards import load
from ttbr.build import Arena
from ttbr.linux.config import configure
from ttbr.linux.mapped import wrongly_mapped
from ttbr.linux.realise import Realised, realise, table_base
from ttbr.linux.strategies import STRATEGIES, plan

XN = 1 << 54
OUTPUT = 0xFFFF_FFFF_F000


def made(strategy: str, board: str = "seattle", release: str = "5.10") -> Realised:
    base = load(board).ram[0].start
    config = configure(release, "4K", 39, base + 0x80000)
    found = plan(strategy, config, load(board))
    return realise(found, Arena.at(table_base(found), found.config.granule))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_maps_what_it_planned(strategy: str) -> None:
    found = plan(strategy, configure("5.10", "4K", 39, 0x80_0008_0000), load("seattle"))
    if not found.roots:
        pytest.skip(found.why_not or "no tables of its own")
    assert wrongly_mapped(made(strategy)) == ()


def change(tables: Realised, wanted: Callable[[int], bool], new: Callable[[int], int]) -> int:
    """Rewrite one leaf for which *wanted* holds; its output address."""
    for segment in tables.tables[0].arena.segments:
        for at in range(segment.offset, segment.offset + segment.size, 8):
            word: int = struct.unpack_from("<Q", segment.data, at)[0]
            if word & 3 == 3 and word & XN and wanted(word):
                struct.pack_into("<Q", segment.data, at, new(word))
                return word & OUTPUT
    raise AssertionError("no such leaf")


@pytest.mark.parametrize(
    "new",
    [
        lambda word: word ^ 1 << 30,
        lambda word: 0,
        lambda word: word & ~XN,
        lambda word: word | 1 << 7,
        lambda word: word & ~(1 << 10),
        lambda word: word | 7 << 2,
        lambda word: word & ~(3 << 8),
    ],
    ids=["output", "invalid", "executable", "read-only", "access flag", "memory", "shareability"],
)
def test_a_leaf_that_is_wrong_is_found(new: Callable[[int], int]) -> None:
    tables = made("merged-root")
    output = change(tables, lambda word: True, new)
    lines = wrongly_mapped(tables)
    assert lines
    assert any(f"-> {output:#x}" in line or "mapped as" in line for line in lines)


def test_tables_that_the_registers_do_not_reach() -> None:
    """TCR_EL2.PS was 40 bits up to Linux 4.4 (TCR_EL2_PS_40B): RAM at 1 TB is out of reach."""
    base = load("sbsa-ref").ram[0].start
    found = plan("merged-root", configure("4.1", "4K", 39, base + 0x80000), load("sbsa-ref"))
    tables = realise(found, Arena.at(table_base(found), found.config.granule))
    assert all("not mapped" in line for line in wrongly_mapped(tables))
    assert wrongly_mapped(tables)

"""A walk as text: what a person must be able to read from it."""

import pytest

from trees import (
    AF,
    DBM,
    EL0,
    GP,
    ISH,
    NG,
    NO_EL0_TABLE,
    NS_TABLE,
    PAGE,
    PXN_TABLE,
    RO_TABLE,
    UXN,
    UXN_TABLE,
    Tree,
    el1_registers,
)
from ttbr.arch.regime import EL1, regime_of
from ttbr.report.explain import explain
from ttbr.walk import translate

OUT = 0x4000_0000


def told(tree: Tree, registers: dict[str, int], va: int) -> list[str]:
    regime = regime_of(registers, EL1)
    return explain(regime, va, translate(tree.memory, regime, va)).splitlines()


def test_whole_text() -> None:
    tree = Tree()
    leaf = OUT | AF | NG | ISH | EL0 | UXN | GP | DBM | PAGE
    root = tree.chain((0, 1, 2), leaf, PXN_TABLE)
    assert told(tree, el1_registers(root, T0SZ=25), 1 << 21 | 2 << 12 | 0x34) == [
        "0x202034: EL1&0, TTBR0_EL1: 4K granule, 39-bit input, output up to 48 bits, "
        "root 0x80002000 (level 1, 512 entries, 4K)",
        "  L1 0x80002000[0x0] = 0x0800000080001003  table  [PXNTable]",
        "  L2 0x80001000[0x1] = 0x0800000080000003  table  [PXNTable]",
        "  L3 0x80000000[0x2] = 0x004c000040000f43  page",
        "  4K page, output 0x40000034: rw-/rw- Normal WB ISH nG DBM GP",
        "  => PA 0x40000034, rw-/rw- Normal WB ISH",
    ]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (RO_TABLE, "[APTable: read-only]"),
        (NO_EL0_TABLE, "[APTable: no EL0]"),
        (UXN_TABLE | PXN_TABLE, "[UXNTable, PXNTable]"),
        (NS_TABLE, "[NSTable]"),
    ],
)
def test_limits_of_tables(limits: int, words: str) -> None:
    tree = Tree()
    root = tree.chain((0, 0, 0), OUT | AF | PAGE, limits)
    lines = told(tree, el1_registers(root, T0SZ=25), 0)
    assert [words in line for line in lines] == [False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        (0, "  => Translation fault, level 3: invalid descriptor"),
        (1, "  => Translation fault, level 3: reserved descriptor type 0b01 at level 3"),
        (OUT | PAGE, "  => Access flag fault, level 3: AF=0 and HA=0"),
        (
            1 << 40 | AF | PAGE,
            "  => Address size fault, level 3: output 0x10000000000 is beyond 36 bits",
        ),
    ],
)
def test_faults(descriptor: int, text: str) -> None:
    tree = Tree()
    root = tree.chain((0, 0, 0), descriptor)
    lines = told(tree, el1_registers(root, T0SZ=25, IPS=1), 0)
    assert lines[-2] == text
    assert lines[-1].startswith("  fault status code 0x")


def test_stage1_off() -> None:
    first, last = told(Tree(), el1_registers(0) | {"SCTLR_EL1": 0}, 0x1000)
    assert first.startswith("0x1000: EL1&0, stage 1 off")
    assert last == "  => PA 0x1000, rwx/rwx Device-nGnRnE"

"""What a page permits to each access: AP, table limits, WXN, PAN, E0PD, regimes without EL0."""

import pytest

from trees import (
    AF,
    EL0,
    ISH,
    NO_EL0_TABLE,
    NS_TABLE,
    PAGE,
    PXN,
    PXN_TABLE,
    RO,
    RO_TABLE,
    TABLE,
    UXN,
    UXN_TABLE,
    Tree,
    allowed,
    el1_registers,
    fault,
    mapped,
    tcr_el2,
    walk,
)
from ttbr.arch.faults import FaultKind
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, EL2, EL3, regime_of
from ttbr.record import replace
from ttbr.walk import (
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EXECUTE,
    READ,
    WRITE,
    Mapping,
    translate,
)

HIGH = 1 << 63
UPPER = 0xFFFF_0000_0000_0000
OUT = 0x4000_0000
LEAF = OUT | AF | ISH


KERNEL_RW = {"read", "write"}
USER = {"EL0 read", "EL0 write", "EL0 execute"}


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        (0, {"read", "write", "execute", "EL0 execute"}),
        (UXN, {"read", "write", "execute"}),
        (PXN | UXN, {"read", "write"}),
        (RO | UXN, {"read", "execute"}),
        (EL0, {"read", "write"} | USER),  # writable at EL0: never executable at EL1
        (EL0 | UXN, {"read", "write", "EL0 read", "EL0 write"}),
        (EL0 | RO, {"read", "execute", "EL0 read", "EL0 execute"}),
        (EL0 | RO | PXN, {"read", "EL0 read", "EL0 execute"}),
    ],
)
def test_permissions_of_a_page(attributes: int, wanted: set[str]) -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | attributes | PAGE)
    assert allowed(tree, el1_registers(root)) == wanted


@pytest.mark.parametrize(
    ("table", "lost"),
    [
        (RO_TABLE, {"write", "EL0 write"}),
        (NO_EL0_TABLE, {"EL0 read", "EL0 write"}),
        (UXN_TABLE, {"EL0 execute"}),
        (NS_TABLE, set[str]()),
    ],
)
@pytest.mark.parametrize("level", range(3))
def test_hierarchical_limits_at_each_level(table: int, lost: set[str], level: int) -> None:
    """Bits 63:59 of any table on the way count; HPD disables 62:59."""
    tree = Tree()
    descriptor, root = LEAF | EL0 | PXN | PAGE, 0
    for at in (3, 2, 1, 0):
        root = tree.table({0: descriptor})
        descriptor = root | TABLE | (table if at - 1 == level else 0)
    whole = KERNEL_RW | USER
    assert allowed(tree, el1_registers(root)) == whole - lost
    assert allowed(tree, el1_registers(root, HPD0=1)) == whole
    assert allowed(tree, el1_registers(root, HPD1=1)) == whole - lost


def test_pxn_table() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | RO | PAGE, PXN_TABLE)
    assert "execute" not in allowed(tree, el1_registers(root))
    assert "execute" in allowed(tree, el1_registers(root, HPD0=1))
    features = Features(hpds=False)
    regime = regime_of(el1_registers(root, HPD0=1), EL1, features)
    assert fault(translate(tree.memory, regime, 0, EXECUTE)) == (FaultKind.PERMISSION, 3)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        (0, {"read", "write", "EL0 execute"}),
        (EL0, {"read", "write", "EL0 read", "EL0 write"}),
        (RO, {"read", "execute", "EL0 execute"}),
        (EL0 | RO, {"read", "execute", "EL0 read", "EL0 execute"}),
    ],
)
def test_wxn(attributes: int, wanted: set[str]) -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | attributes | PAGE)
    assert allowed(tree, el1_registers(root) | {"SCTLR_EL1": 1 | 1 << 19}) == wanted


@pytest.mark.parametrize(
    ("attributes", "refused", "refused_with_epan"),
    [
        (EL0, True, True),
        (EL0 | RO, True, True),
        (0, False, True),  # executable at EL0 only: EPAN counts that as EL0 access
        (UXN, False, False),
        (RO | UXN, False, False),
    ],
)
def test_pan(attributes: int, refused: bool, refused_with_epan: bool) -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | attributes | PAGE)
    for sctlr, wanted in ((1, refused), (1 | 1 << 57, refused_with_epan)):
        registers = el1_registers(root) | {"SCTLR_EL1": sctlr}
        for access in (READ, WRITE):
            plain = walk(tree, registers, 0, access)
            pan = walk(tree, registers, 0, replace(access, pan=True))
            if wanted:
                assert fault(pan) == (FaultKind.PERMISSION, 3)
            else:
                assert isinstance(pan, Mapping) == isinstance(plain, Mapping)
        for access in (EXECUTE, EL0_READ, EL0_EXECUTE):  # PAN is for privileged data accesses
            answers = [walk(tree, registers, 0, replace(access, pan=p)) for p in (False, True)]
            assert isinstance(answers[0], Mapping) == isinstance(answers[1], Mapping)


def test_e0pd_is_a_translation_fault_at_level_0() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | EL0 | PAGE)
    registers = el1_registers(root, root, E0PD1=1)
    for access in (EL0_READ, EL0_WRITE, EL0_EXECUTE):
        assert fault(walk(tree, registers, UPPER, access)) == (FaultKind.TRANSLATION, 0)
        assert mapped(walk(tree, registers, 0, access)).pa == OUT
    assert mapped(walk(tree, registers, UPPER, READ)).pa == OUT
    old = Features(e0pd=False)
    assert mapped(walk(tree, registers, UPPER, EL0_READ, features=old)).pa == OUT


@pytest.mark.parametrize("name", [EL2, EL3])
def test_regime_without_el0(name: str) -> None:
    """AP[1], PXN and the tables' APTable[0] and PXNTable have no effect; bit 54 is XN."""
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | PXN | PAGE, PXN_TABLE | NO_EL0_TABLE)
    el = name[2]
    registers = {f"TTBR0_EL{el}": root, f"TCR_EL{el}": tcr_el2(), f"MAIR_EL{el}": 0xFF}
    regime = regime_of(registers, name)
    for access in (READ, WRITE, EXECUTE):
        assert mapped(translate(tree.memory, regime, 0, access)).pa == OUT
    registers[f"TTBR0_EL{el}"] = tree.chain((0,) * 4, LEAF | UXN | RO | PAGE)
    regime = regime_of(registers, name)
    for access in (WRITE, EXECUTE):
        answer = translate(tree.memory, regime, 0, access)
        assert fault(answer) == (FaultKind.PERMISSION, 3)

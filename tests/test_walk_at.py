"""AT instructions: which regime and which stages they ask about, and PAR_EL1."""

import pytest

from trees import (
    AF,
    BLOCK,
    EL0,
    ISH,
    PAGE,
    RO,
    S2_NORMAL,
    S2_RW,
    TABLE,
    Tree,
    el1_registers,
    hcr_el2,
    stage2_registers,
    tcr_el1,
    tcr_el2,
)
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.regime import EL1, EL2, EL3, EL20
from ttbr.errors import InvalidError
from ttbr.walk import AT_OPERATIONS, Mapping, address_translate
from ttbr.walk.at import at_regime


@pytest.mark.parametrize("operation", AT_OPERATIONS)
@pytest.mark.parametrize("e2h", [0, 1])
@pytest.mark.parametrize("tge", [0, 1])
def test_regime_of_each_operation(operation: str, e2h: int, tge: int) -> None:
    """S1E1* and S1E0* ask about EL2&0 when E2H and TGE are both set, C5.4."""
    level = operation.split("E")[1][0]
    wanted = {
        "0": EL20 if e2h and tge else EL1,
        "1": EL20 if e2h and tge else EL1,
        "2": EL20 if e2h else EL2,
        "3": EL3,
    }[level]
    assert at_regime(operation, {"HCR_EL2": hcr_el2(E2H=e2h, TGE=tge)}) == wanted


def test_the_operations_are_those_of_the_architecture() -> None:
    names = {f"S1E{el}{rw}" for el in "0123" for rw in "RW"}
    names |= {f"S12E{el}{rw}" for el in "01" for rw in "RW"} | {"S1E1RP", "S1E1WP"}
    assert set(AT_OPERATIONS) == names


def test_unknown_operation() -> None:
    with pytest.raises(InvalidError, match="AT S1E4R: must be one of S1E1R"):
        address_translate(Tree().memory, {}, "S1E4R", 0)


def four(root_leaf: int) -> tuple[Tree, dict[str, int]]:
    """One page in every regime; root tables shared."""
    tree = Tree()
    root = tree.chain((0,) * 4, root_leaf | PAGE)
    registers = el1_registers(root, root)
    registers |= {"TTBR0_EL2": root, "TCR_EL2": tcr_el2(), "MAIR_EL2": 0xFF, "SCTLR_EL2": 1}
    registers |= {"TTBR0_EL3": root, "TCR_EL3": tcr_el2(), "MAIR_EL3": 0xFF, "SCTLR_EL3": 1}
    return tree, registers


@pytest.mark.parametrize(
    ("attributes", "granted"),
    [
        (0, {"S1E1R", "S1E1W", "S1E2R", "S1E2W", "S1E3R", "S1E3W", "S1E1RP", "S1E1WP"}),
        (RO, {"S1E1R", "S1E2R", "S1E3R", "S1E1RP"}),
        (EL0, {"S1E0R", "S1E0W", "S1E1R", "S1E1W", "S1E2R", "S1E2W", "S1E3R", "S1E3W"}),
        (EL0 | RO, {"S1E0R", "S1E1R", "S1E2R", "S1E3R"}),
    ],
)
def test_permissions_of_each_operation(attributes: int, granted: set[str]) -> None:
    """PSTATE.PAN counts for S1E1RP and S1E1WP only."""
    tree, registers = four(0x4000_0000 | AF | ISH | attributes)
    for operation in AT_OPERATIONS:
        if operation.startswith("S12"):
            continue
        answer = address_translate(tree.memory, registers, operation, 0x10, pan=True)
        assert isinstance(answer, Mapping) == (operation in granted), operation
        if isinstance(answer, Fault):
            assert (answer.kind, answer.level) == (FaultKind.PERMISSION, 3)
    plain = address_translate(tree.memory, registers, "S1E1RP", 0x10, pan=False)
    assert isinstance(plain, Mapping)


def test_par_of_a_page() -> None:
    tree, registers = four(0x4000_0000 | AF | ISH)
    answer = address_translate(tree.memory, registers, "S1E1R", 0x123)
    assert answer.par() == 0xFF00_0000_4000_0B80  # WB, ISH, NS, RES1
    assert address_translate(tree.memory, registers, "S1E1R", 1 << 40).par() == 0x80D - 4


def test_s12_gives_the_pa_and_s1_the_ipa() -> None:
    tree = Tree()
    stage2 = tree.table({1: 0x8000_0000 | AF | S2_RW | S2_NORMAL | BLOCK}, count=2)
    last = tree.table({0: 0x4800_0000 | AF | EL0 | PAGE}) - 0x4000_0000
    middle = tree.table({0: last | TABLE}) - 0x4000_0000
    root = tree.table({0: middle | TABLE}) - 0x4000_0000
    registers = el1_registers(root, T0SZ=25) | stage2_registers(stage2)

    def pa(operation: str) -> int:
        return address_translate(tree.memory, registers, operation, 0).par() & 0xF_FFFF_FFFF_F000

    assert {op: pa(op) for op in ("S1E1R", "S1E0R", "S1E1WP")} == dict.fromkeys(
        ("S1E1R", "S1E0R", "S1E1WP"), 0x4800_0000
    )
    assert {pa(op) for op in ("S12E1R", "S12E1W", "S12E0R", "S12E0W")} == {0x8800_0000}


def test_el2_host() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, 0x4000_0000 | AF | EL0 | PAGE)
    registers = {"TTBR0_EL2": root, "TTBR1_EL2": root, "TCR_EL2": tcr_el1(), "MAIR_EL2": 0xFF}
    registers["HCR_EL2"] = hcr_el2(E2H=1, TGE=1)
    for operation in ("S1E0R", "S1E1R", "S1E2R"):
        assert isinstance(address_translate(tree.memory, registers, operation, 0), Mapping)
    answer = address_translate(tree.memory, registers, "S1E2R", 0xFFFF_0000_0000_0000)
    assert isinstance(answer, Mapping)

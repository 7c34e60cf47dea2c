"""Stage 2 by itself and under stage 1: addresses, faults and whose they are, types."""

import pytest

from trees import (
    ACCESSES,
    AF,
    BLOCK,
    DBM,
    EL0,
    ISH,
    OSH,
    PAGE,
    RO,
    S2_NORMAL,
    S2_READ,
    S2_RW,
    S2_WRITE,
    TABLE,
    Tree,
    allowed,
    el1_registers,
    fault,
    mapped,
    stage2_registers,
    walk,
)
from ttbr.arch.attributes import PR, PX, UR, UX
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.regime import stage2_of
from ttbr.errors import InvalidError
from ttbr.walk import (
    EXECUTE,
    READ,
    WRITE,
    Access,
    Leaf,
    Mapping,
    translate_stage2,
)

OFF = {"SCTLR_EL1": 0}

# --- stage 2 -------------------------------------------------------------------------------------

# Stage 2 of 40 bits from level 1 (two tables): IPA 0x4000_0000 is PA 0x8000_0000.
S2 = AF | ISH | S2_RW | S2_NORMAL
SHIFT = 0x4000_0000


class Guest:
    """A guest whose tables stand at PA 0x8000_0000 up, IPA 0x4000_0000 up."""

    def __init__(self, leaf: int = 0x4800_0000 | AF | ISH | PAGE, tables: int = S2) -> None:
        self.tree = Tree()
        self.stage2 = self.tree.table(count=2)
        self.tree.set(self.stage2, 1, 0x8000_0000 | tables | BLOCK)
        descriptor = leaf
        for _ in range(3):
            table = self.tree.table({0: descriptor}) - SHIFT
            descriptor = table | TABLE
        self.root = table
        self.registers = el1_registers(table, T0SZ=25) | stage2_registers(self.stage2)

    def ask(self, access: Access | None = None, va: int = 0, **options: bool) -> Mapping | Fault:
        return walk(self.tree, self.registers, va, access, **options)  # type: ignore[arg-type]


def test_two_stages() -> None:
    guest = Guest()
    answer = mapped(guest.ask(READ, 0x123))
    assert (answer.ipa, answer.pa, answer.size) == (0x4800_0123, 0x8800_0123, 4096)
    stages = [step.stage for step in answer.steps]
    assert stages == [2, 1, 2, 1, 2, 1, 2]  # the fetches go through stage 2, then the output
    fetched = [step for step in answer.steps if step.stage == 1]
    assert all(step.address == step.table + step.index * 8 + SHIFT for step in fetched)


def test_stage1_only_gives_the_ipa() -> None:
    answer = mapped(Guest(leaf=0x10_0000_0000 | AF | PAGE).ask(READ, 0x123, stage1_only=True))
    assert (answer.ipa, answer.pa, answer.leaf2) == (0x10_0000_0123, 0x10_0000_0123, None)


def test_stage2_fault_of_the_output() -> None:
    answer = Guest(leaf=0x10_0000_0000 | AF | PAGE).ask(READ)
    assert fault(answer) == (FaultKind.TRANSLATION, 1)
    assert isinstance(answer, Fault)
    assert (answer.stage, answer.s1ptw, answer.ipa) == (2, False, 0x10_0000_0000)
    assert answer.par() == 1 | 0b000101 << 1 | 1 << 9 | 1 << 11


def test_ipa_beyond_stage2_is_level_0() -> None:
    answer = Guest(leaf=1 << 40 | AF | PAGE).ask(READ)
    assert fault(answer) == (FaultKind.TRANSLATION, 0)
    assert isinstance(answer, Fault)
    assert (answer.stage, answer.ipa) == (2, 1 << 40)


@pytest.mark.parametrize("stage1_only", [False, True])
def test_stage2_fault_of_a_descriptor_fetch(stage1_only: bool) -> None:
    """S1PTW: the level is that of stage 2, the IPA that of the descriptor."""
    guest = Guest()
    guest.tree.set(guest.root + SHIFT, 0, 0xC000_0000 | TABLE)
    answer = guest.ask(READ, stage1_only=stage1_only)
    assert fault(answer) == (FaultKind.TRANSLATION, 1)
    assert isinstance(answer, Fault)
    assert (answer.stage, answer.s1ptw, answer.ipa) == (2, True, 0xC000_0000)
    assert answer.par() == 1 | 0b000101 << 1 | 1 << 8 | 1 << 9 | 1 << 11


@pytest.mark.parametrize(
    ("attributes", "kind"),
    [
        (S2 & ~AF, FaultKind.ACCESS_FLAG),
        (S2 & ~S2_READ, FaultKind.PERMISSION),
        (1 << 45 | S2, FaultKind.ADDRESS_SIZE),
    ],
)
def test_other_stage2_faults_of_a_fetch(attributes: int, kind: FaultKind) -> None:
    guest = Guest(tables=attributes)
    guest.registers |= stage2_registers(guest.stage2, PS=4)
    answer = guest.ask()
    assert fault(answer) == (kind, 1)
    assert isinstance(answer, Fault)
    assert (answer.stage, answer.s1ptw, answer.ipa) == (2, True, guest.root)


@pytest.mark.parametrize("device", range(4))
def test_protected_table_walk(device: int) -> None:
    """HCR_EL2.PTW=1: a stage 1 table in stage 2 Device memory is a stage 2 Permission fault."""
    guest = Guest(tables=AF | S2_RW | device << 2)
    assert isinstance(guest.ask(READ), Mapping)
    guest.registers |= stage2_registers(guest.stage2, {"PTW": 1})
    answer = guest.ask(READ)
    assert fault(answer) == (FaultKind.PERMISSION, 1)
    assert isinstance(answer, Fault)
    assert (answer.stage, answer.s1ptw) == (2, True)
    normal = Guest()
    normal.registers |= stage2_registers(normal.stage2, {"PTW": 1})
    assert isinstance(normal.ask(READ), Mapping)


@pytest.mark.parametrize("s2ap", range(4))
@pytest.mark.parametrize("xn", range(4))
def test_stage2_permissions(s2ap: int, xn: int) -> None:
    leaf = 0x50_0000_0000 & ((1 << 40) - 1) | AF | ISH | EL0 | PAGE  # all but privileged execute
    guest = Guest(leaf=leaf)
    block = 0x8000_0000 | AF | S2_NORMAL | s2ap << 6 | xn << 53 | BLOCK
    guest.tree.set(guest.stage2, 0x50_0000_0000 >> 30, block)
    wanted = {"read", "EL0 read"} if s2ap & 1 else set()
    wanted |= {"write", "EL0 write"} if s2ap & 2 else set()
    wanted |= {"EL0 execute"} if xn in (0, 1) else set()
    assert allowed(guest.tree, guest.registers) == wanted
    denied = [a for a in ACCESSES if a.name not in wanted and a is not EXECUTE]
    for access in denied:
        answer = guest.ask(access)
        assert isinstance(answer, Fault)
        assert (answer.kind, answer.stage, answer.level) == (FaultKind.PERMISSION, 2, 1)


def test_stage1_permission_comes_before_stage2() -> None:
    answer = Guest(leaf=0x10_0000_0000 | AF | RO | PAGE).ask(WRITE)
    assert isinstance(answer, Fault)
    assert (answer.kind, answer.stage, answer.level) == (FaultKind.PERMISSION, 1, 3)


def test_mmu_off_under_stage2() -> None:
    guest = Guest()
    guest.registers |= OFF
    answer = mapped(guest.ask(READ, 0x4000_0123))
    assert (answer.ipa, answer.pa, answer.leaf) == (0x4000_0123, 0x8000_0123, None)
    assert (answer.attr, answer.shareability) == (0x00, 2)
    assert fault(guest.ask(READ, 0xC000_0000)) == (FaultKind.TRANSLATION, 1)


@pytest.mark.parametrize(("sh2", "shareability"), [(0, 0), (ISH, 3), (OSH, 2)])
def test_default_cacheability(sh2: int, shareability: int) -> None:
    """HCR_EL2.DC: stage 1 is off, Normal Write-Back Non-shareable, stage 2 is on without VM."""
    guest = Guest(tables=AF | S2_RW | S2_NORMAL | sh2)
    guest.registers |= stage2_registers(guest.stage2, {"VM": 0, "DC": 1})
    answer = mapped(guest.ask(READ, 0x4000_0000))
    assert (answer.leaf, answer.pa) == (None, 0x8000_0000)
    assert (answer.attr, answer.shareability) == (0xFF, shareability)


@pytest.mark.parametrize(
    ("memattr", "index", "attr"),
    [
        (0b0110, 1, 0xFF),  # forced Write-Back: also over Device of stage 1
        (0b0110, 0, 0xFF),
        (0b0110, 2, 0xFF),
        (0b0111, 1, 0x04),  # as stage 1
        (0b0111, 2, 0x44),
        (0b0101, 0, 0x44),  # Non-cacheable
        (0b0101, 1, 0x04),
        (0b0001, 0, 0x04),  # Device
    ],
)
def test_forced_write_back(memattr: int, index: int, attr: int) -> None:
    guest = Guest(leaf=0x4800_0000 | AF | index << 2 | PAGE, tables=AF | S2_RW | ISH | memattr << 2)
    guest.registers |= stage2_registers(guest.stage2, {"FWB": 1})
    answer = mapped(guest.ask(READ))
    assert answer.attr == attr
    assert answer.leaf2 is not None


@pytest.mark.parametrize(("memattr", "attr"), [(0b1111, 0x44), (0b0101, 0x44), (0b0001, 0x04)])
def test_stage2_cacheability_disabled(memattr: int, attr: int) -> None:
    """HCR_EL2.CD makes Normal memory Non-cacheable and leaves Device."""
    guest = Guest(tables=AF | S2_RW | memattr << 2)
    guest.registers |= stage2_registers(guest.stage2, {"CD": 1})
    assert mapped(guest.ask(READ)).attr == attr


def test_stage2_by_itself() -> None:
    guest = Guest(tables=S2 & ~S2_WRITE)
    p = stage2_of(guest.registers)
    leaf, steps = translate_stage2(guest.tree.memory, p, 0x4000_0123)
    assert isinstance(leaf, Leaf)
    assert (leaf.output, leaf.permissions) == (0x8000_0123, PR | UR | PX | UX)
    assert [step.kind for step in steps] == ["block"]
    missing, steps = translate_stage2(guest.tree.memory, p, 1 << 40)
    assert fault(missing) == (FaultKind.TRANSLATION, 0)
    assert steps == []


def test_concatenated_root() -> None:
    """A 43-bit IPA from level 1 of 4K: 16 tables, the index is IPA[42:30]."""
    tree = Tree()
    root = tree.table({8191: 0x8000_0000 | S2 | BLOCK}, count=16)
    p = stage2_of(stage2_registers(root, T0SZ=21))
    leaf, steps = translate_stage2(tree.memory, p, (8191 << 30) + 5)
    assert isinstance(leaf, Leaf)
    assert (leaf.output, steps[0].index, steps[0].address) == (
        0x8000_0005,
        8191,
        root + 8191 * 8,
    )


@pytest.mark.parametrize(("sl0", "t0sz"), [(0, 16), (3, 30), (2, 40)])
def test_inconsistent_start_level_faults_at_level_0(sl0: int, t0sz: int) -> None:
    p = stage2_of(stage2_registers(0x8000_0000, SL0=sl0, T0SZ=t0sz))
    answer, steps = translate_stage2(Tree().memory, p, 0)
    assert fault(answer) == (FaultKind.TRANSLATION, 0)
    assert steps == []
    guest = Guest()
    guest.registers |= stage2_registers(guest.stage2, SL0=sl0, T0SZ=t0sz)
    whole = guest.ask(READ)
    assert isinstance(whole, Fault)
    assert (whole.kind, whole.level, whole.stage, whole.s1ptw) == (
        FaultKind.TRANSLATION,
        0,
        2,
        True,
    )


def test_invalid_stage2_is_raised_not_guessed() -> None:
    guest = Guest()
    guest.registers |= stage2_registers(guest.stage2, TG0=3)
    with pytest.raises(InvalidError, match=r"VTCR_EL2\.TG0"):
        guest.ask(READ)


@pytest.mark.parametrize(
    ("control", "writable"),
    [({}, False), ({"HA": 1}, False), ({"HD": 1}, False), ({"HA": 1, "HD": 1}, True)],
)
def test_dirty_state(control: dict[str, int], writable: bool) -> None:
    """DBM at stage 2: S2AP[1] counts as set when hardware manages dirty state."""
    guest = Guest(leaf=0x8000_0000 | AF | PAGE)
    guest.tree.set(guest.stage2, 2, 0x8000_0000 | AF | S2_READ | S2_NORMAL | DBM | BLOCK)
    guest.registers |= stage2_registers(guest.stage2, **control)
    assert isinstance(guest.ask(WRITE), Mapping) == writable
    assert isinstance(guest.ask(READ), Mapping)


def test_access_flag_of_stage2_by_hardware() -> None:
    guest = Guest(tables=S2 & ~AF)
    assert fault(guest.ask()) == (FaultKind.ACCESS_FLAG, 1)
    guest.registers |= stage2_registers(guest.stage2, HA=1)
    assert isinstance(guest.ask(), Mapping)

"""The Unicorn harness: known answers, memory sharing, real accesses, and its errors."""

import itertools
import mmap
import sys
from collections.abc import Callable, Iterator

import pytest

from emulate_tables import PAGE, TCR_EL1, TCR_EL2, VALID_TABLE, Tables, four_levels, needs_unicorn
from ttbr.arch.attributes import PR, PW, PX, UR, UW, UX
from ttbr.arch.faults import Fault
from ttbr.arch.regime import EL1, EL2, EL3, EL20, regime_of
from ttbr.emulate.sides import UNICORN_FEATURES
from ttbr.emulate.unicorn_at import ACCESS_CODE, AT_OPERATIONS, BATCH, UnicornAt
from ttbr.errors import InvalidError, TtbrError
from ttbr.memory import SparseMemory
from ttbr.walk import Access, translate

pytestmark = needs_unicorn

BASE = 0x4000_0000
WB = 0xFF << 56
MAPPED = WB | 0xB80  # MAIR 0xff, RES1, NS, inner shareable
TRANSLATION_L2, PERMISSION_L3 = 0x80D, 0x81F


@pytest.fixture
def unicorn() -> Iterator[UnicornAt]:
    with UnicornAt() as cpu:
        yield cpu


def test_at_answers_as_the_tables_say(unicorn: UnicornAt) -> None:
    tables, registers = four_levels(BASE)
    unicorn.map_pages({BASE: bytes(tables.memory)})
    unicorn.load(registers)
    vas = [0x4000_0000, 0x4000_1000, 0x4000_2000, 0x4020_0000]
    pas = [MAPPED | 0x8000_0000 + (i << 12) for i in range(4)]
    assert list(unicorn.at("S1E1R", vas)) == [*pas[:3], TRANSLATION_L2]
    assert list(unicorn.at("S1E0W", vas)) == [PERMISSION_L3, pas[1], PERMISSION_L3, TRANSLATION_L2]
    assert list(unicorn.at("S1E2W", vas)) == [pas[0], pas[1], PERMISSION_L3, TRANSLATION_L2]
    assert list(unicorn.at("S1E1RP", vas[:2], pan=True)) == [pas[0], PERMISSION_L3]
    assert list(unicorn.at("S1E1RP", vas[:2], pan=False)) == pas[:2]


def test_every_operation_answers_and_batches_join(unicorn: UnicornAt) -> None:
    tables, registers = four_levels(BASE)
    unicorn.map(BASE, tables.memory)
    unicorn.load(registers)
    for operation in AT_OPERATIONS:
        if operation.startswith("S1E3"):  # the MMU of EL3 is off: VA is PA
            assert unicorn.at(operation, [0x1234_5000])[0] >> 12 & 0xFFFFF == 0x12345
        else:
            assert unicorn.at(operation, [0x4020_0000])[0] == TRANSLATION_L2
    vas = [0x4000_0000 + (i % 512 << 12) for i in range(2 * BATCH + 3)]
    assert list(unicorn.at("S1E1R", vas)) == [MAPPED | va + 0x4000_0000 for va in vas]
    assert list(unicorn.at("S1E1R", [])) == []


def test_aligned_memory_is_shared_and_bytes_are_copied(unicorn: UnicornAt) -> None:
    tables, registers = four_levels(BASE)
    shared = mmap.mmap(-1, len(tables.memory))
    shared[:] = bytes(tables.memory)
    unicorn.map(BASE, shared)
    unicorn.load(registers)
    assert unicorn.at("S1E1R", [0x4000_0000])[0] == MAPPED | 0x8000_0000
    shared[0x3000:0x3008] = bytes(8)
    assert unicorn.at("S1E1R", [0x4000_0000])[0] & 0x7F == 0b000111 << 1 | 1
    unicorn.unmap(BASE)
    unicorn.map(BASE, bytes(tables.memory))
    assert unicorn.at("S1E1R", [0x4000_0000])[0] == MAPPED | 0x8000_0000


def test_registers_not_given_become_zero(unicorn: UnicornAt) -> None:
    tables, registers = four_levels(BASE)
    unicorn.map(BASE, bytes(tables.memory))
    unicorn.load(registers)
    unicorn.load({})
    assert unicorn.at("S1E1R", [0x1000])[0] & 1 == 0
    assert unicorn.at("S1E1R", [0x1000])[0] >> 12 & 0xFFFFFFFFF == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda u: u.at("S1E4R", [0]), "S1E4R"),
        (lambda u: u.map(0x123, bytes(4096)), "0x123"),
        (lambda u: u.map(0x1000, b"short"), "5 bytes"),
        (lambda u: u.map(u.harness, bytes(4096)), "0xfff00000000"),
        (lambda u: u.access(1, "load", 0), "load"),
        (lambda u: u.access(1, "jump", 0), "jump"),
    ],
)
def test_what_cannot_be_is_refused(
    unicorn: UnicornAt, wrong: Callable[[UnicornAt], object], text: str
) -> None:
    with pytest.raises(InvalidError, match=text):
        wrong(unicorn)


def test_no_such_cpu() -> None:
    with pytest.raises(InvalidError, match="m0"):
        UnicornAt("m0")


def test_without_unicorn_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unicorn", None)
    with pytest.raises(TtbrError, match=r"pip install 'ttbr\[emulate\]'"):
        UnicornAt()


def test_an_abort_of_the_probe_itself_is_an_error(unicorn: UnicornAt) -> None:
    tables, registers = four_levels(BASE)
    unicorn.map(BASE, bytes(tables.memory))
    unicorn.load(registers)
    with pytest.raises(TtbrError, match="exception 3"):
        unicorn.access(1, "load", 0x4000_0000, code=0x4020_0000)


# AP[2:1], UXN, PXN of the leaf; APTable, UXNTable, PXNTable of the table above it.
LEAVES = list(itertools.product(range(4), range(2), range(2)))
LIMITS = list(itertools.product(range(4), range(2), range(2)))
CODE_VA = {0: 0x7F_C000_0000, 1: 0x7F_C000_1000, 2: 0x7F_C000_1000, 3: 0x7F_C000_1000}
AP_READ_ONLY, AP_EL0 = 0b10 << 6, 0b01 << 6
UXN, PXN = 1 << 54, 1 << 53


def permission_tables() -> Tables:
    """Level 1 entries 0..15 carry `LIMITS`, level 3 entries 0..15 below each `LEAVES`.

    Level 1 entry 511 holds two pages of `ACCESS_CODE`, executable under WXN and PAN: the first at
    EL0, the second at EL1, EL2 and EL3.
    """
    tables = Tables(BASE, 64)
    root, level1, code2, code3, code = (tables.new() for _ in range(5))
    tables.set(root, 0, level1 | VALID_TABLE)
    tables.set(level1, 511, code2 | VALID_TABLE)
    tables.set(code2, 0, code3 | VALID_TABLE)
    tables.memory[code - BASE : code - BASE + len(ACCESS_CODE)] = ACCESS_CODE
    tables.set(code3, 0, code | PAGE | AP_READ_ONLY | AP_EL0 | PXN)
    tables.set(code3, 1, code | PAGE | AP_READ_ONLY)
    level2, level3 = tables.new(), tables.new()
    tables.set(level2, 0, level3 | VALID_TABLE)
    for i, (aptable, uxntable, pxntable) in enumerate(LIMITS):
        limits = aptable << 61 | uxntable << 60 | pxntable << 59
        tables.set(level1, i, level2 | VALID_TABLE | limits)
    for i, (ap, uxn, pxn) in enumerate(LEAVES):
        tables.set(level3, i, 0x8000_0000 + (i << 12) | PAGE | ap << 6 | uxn * UXN | pxn * PXN)
    return tables


# regime -> (exception levels, HCR_EL2, suffix of the registers that hold it, TCR)
REGIMES = {
    EL1: ((0, 1), 0, "EL1", TCR_EL1),
    EL20: ((0, 2), 1 << 34 | 1 << 27, "EL2", TCR_EL1),
    EL2: ((2,), 0, "EL2", TCR_EL2),
    EL3: ((3,), 0, "EL3", TCR_EL2),
}
NEEDS = {"fetch": (UX, PX), "load": (UR, PR), "store": (UW, PW)}  # at EL0, and above


@pytest.mark.parametrize("name", REGIMES)
@pytest.mark.parametrize("wxn", [False, True], ids=["", "WXN"])
def test_real_accesses_obey_the_permissions(unicorn: UnicornAt, name: str, wxn: bool) -> None:
    """Every AP x UXN x PXN x APTable x UXNTable x PXNTable x WXN x PAN x EL, really executed."""
    levels, hcr, suffix, tcr = REGIMES[name]
    memory = {BASE: bytes(permission_tables().memory)}
    registers = {
        f"TTBR0_{suffix}": BASE,
        f"TTBR1_{suffix}": BASE,
        f"TCR_{suffix}": tcr,
        f"SCTLR_{suffix}": 1 | wxn << 19,
        f"MAIR_{suffix}": 0xFF,
        "HCR_EL2": hcr | 1 << 31,
    }
    unicorn.map_pages(memory)
    unicorn.load(registers)
    regime = regime_of(registers, name, UNICORN_FEATURES)
    wrong = []
    probes = 0
    pans = (False, True) if len(levels) == 2 else (False,)
    for el, pan, kind in itertools.product(levels, pans, NEEDS):
        access = Access(kind, NEEDS[kind][el > 0], pan)
        for i, j in itertools.product(range(len(LIMITS)), range(len(LEAVES))):
            va = i << 30 | j << 12
            done = unicorn.access(el, kind, va, CODE_VA[el], pan)
            ours = translate(SparseMemory(memory), regime, va, access)
            probes += 1
            if done == isinstance(ours, Fault):
                wrong.append((el, kind, LIMITS[i], LEAVES[j], pan, done, str(ours)))
    assert wrong == []
    assert probes == 256 * 3 * len(levels) * len(pans)

"""One address through hand-made tables: each rule of the walk, and each fault with its level."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trees import (
    ACCESSES,
    AF,
    BLOCK,
    CONT,
    DBM,
    EL0,
    ISH,
    NS_TABLE,
    PAGE,
    RO,
    RO_TABLE,
    TABLE,
    TG0,
    Tree,
    allowed,
    el1_registers,
    fault,
    hcr_el2,
    mapped,
    reason_of,
    steps_of,
    tcr_el1,
    walk,
)
from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.features import Features
from ttbr.arch.geometry import GRANULES
from ttbr.arch.regime import EL1, EL20, regime_of, walk_params
from ttbr.errors import InvalidError
from ttbr.memory import SparseMemory
from ttbr.record import replace
from ttbr.walk import (
    EL0_READ,
    EXECUTE,
    READ,
    WRITE,
    Access,
    Mapping,
    Step,
    translate,
)

HIGH = 1 << 63
UPPER = 0xFFFF_0000_0000_0000
OUT = 0x4000_0000
LEAF = OUT | AF | ISH


# --- the walk itself -----------------------------------------------------------------------------


def test_four_levels_step_by_step() -> None:
    tree = Tree()
    root = tree.chain((1, 2, 3, 4), LEAF | PAGE)
    va = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0xABC
    answer = mapped(walk(tree, el1_registers(root), va))
    l3, l2, l1, l0 = sorted(tree.tables)
    assert (answer.pa, answer.ipa, answer.size, answer.level) == (OUT | 0xABC, OUT | 0xABC, 4096, 3)
    assert answer.steps == (
        Step(1, 0, l0, 1, l0 + 8, l1 | 3, "table"),
        Step(1, 1, l1, 2, l1 + 16, l2 | 3, "table"),
        Step(1, 2, l2, 3, l2 + 24, l3 | 3, "table"),
        Step(1, 3, l3, 4, l3 + 32, LEAF | PAGE, "page"),
    )


@pytest.mark.parametrize(
    ("indices", "size"), [((0, 1), 1 << 30), ((0, 0, 1), 1 << 21), ((0, 0, 0, 1), 1 << 12)]
)
def test_blocks_keep_the_offset(indices: tuple[int, ...], size: int) -> None:
    kind = PAGE if len(indices) == 4 else BLOCK
    tree = Tree()
    root = tree.chain(indices, 1 << 40 | AF | kind)
    answer = mapped(walk(tree, el1_registers(root), size + size - 1))
    assert (answer.pa, answer.size) == (1 << 40 | size - 1, size)
    assert answer.steps[-1].kind == ("page" if kind == PAGE else "block")


def test_res0_address_bits_of_a_block_are_ignored() -> None:
    tree = Tree()
    root = tree.chain((0, 0, 0), 0x401F_F000 | AF | BLOCK)
    assert mapped(walk(tree, el1_registers(root), 0x1234)).pa == 0x4000_1234


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("descriptor", [0, 2, 0xFFFF_FFFF_FFFF_FFFE])
def test_invalid_at_each_level(level: int, descriptor: int) -> None:
    tree = Tree()
    root = tree.chain((0,) * (level + 1), descriptor)
    answer = walk(tree, el1_registers(root), 0)
    assert fault(answer) == (FaultKind.TRANSLATION, level)
    assert steps_of(answer)[-1].kind == "invalid"


@pytest.mark.parametrize(
    ("granule", "t0sz", "start", "level"),
    [("4K", 16, 0, 0), ("4K", 16, 0, 3), ("16K", 16, 0, 0), ("16K", 16, 0, 1), ("16K", 16, 0, 3),
     ("64K", 16, 1, 3)],
)  # fmt: skip
def test_reserved_types_are_translation_faults(
    granule: str, t0sz: int, start: int, level: int
) -> None:
    tree = Tree(granule)
    root = tree.chain((0,) * (level - start + 1), LEAF | BLOCK)
    answer = walk(tree, el1_registers(root, T0SZ=t0sz, TG0=TG0[granule]), 0)
    assert fault(answer) == (FaultKind.TRANSLATION, level)
    assert "reserved descriptor type 0b01" in reason_of(answer)


def test_64k_level_1_block_needs_52_bits() -> None:
    tree = Tree("64K")
    root = tree.chain((0,), 1 << 42 | AF | BLOCK)
    registers = el1_registers(root, TG0=TG0["64K"])
    assert mapped(walk(tree, registers, 5)).pa == 1 << 42 | 5
    assert fault(walk(tree, registers, 5, features=Features(pa_bits=48))) == (
        FaultKind.TRANSLATION,
        1,
    )


def test_self_referencing_root_is_legal() -> None:
    """Index n at every level: the root is its own level 1, 2 and 3 table and then the page."""
    tree = Tree()
    root = tree.table()
    tree.set(root, 0x1ED, root | AF | TABLE)
    va = sum(0x1ED << shift for shift in (39, 30, 21, 12))
    answer = mapped(walk(tree, el1_registers(root), va | 8))
    assert answer.pa == root | 8
    assert [step.table for step in steps_of(answer)] == [root] * 4


def test_self_reference_without_af_is_an_access_flag_fault() -> None:
    tree = Tree()
    root = tree.table()
    tree.set(root, 0, root | TABLE)
    assert fault(walk(tree, el1_registers(root), 0)) == (FaultKind.ACCESS_FLAG, 3)


def test_loop_of_two_tables_ends() -> None:
    tree = Tree()
    a, b = tree.table(), tree.table()
    tree.set(a, 0, b | AF | TABLE)
    tree.set(b, 0, a | AF | TABLE)
    assert mapped(walk(tree, el1_registers(a), 0)).pa == a


@pytest.mark.parametrize("level", range(4))
def test_table_that_is_not_there_is_an_external_abort(level: int) -> None:
    nowhere = 0x7000_0000
    tree = Tree()
    root = tree.chain((0,) * level, nowhere | TABLE) if level else nowhere
    answer = walk(tree, el1_registers(root), 0)
    assert fault(answer) == (FaultKind.EXTERNAL_ABORT, level)
    assert len(answer.steps) == level
    assert hex(nowhere) in reason_of(answer)


def test_table_half_in_memory() -> None:
    """A descriptor that reaches over the end of memory was not read."""
    memory = SparseMemory({0x1000: (LEAF | PAGE).to_bytes(8, "little") + bytes(4)})
    p = walk_params("T", GRANULES["4K"], 21, 0x1000)
    regime = replace(regime_of(el1_registers(0), EL1), lower=p)
    assert mapped(translate(memory, regime, 0)).pa == OUT
    assert fault(translate(memory, regime, 0x1000)) == (FaultKind.EXTERNAL_ABORT, 3)


@pytest.mark.parametrize("va", [-1, 1 << 64])
def test_address_wider_than_64_bits(va: int) -> None:
    with pytest.raises(InvalidError, match="does not fit in 64 bits"):
        walk(Tree(), el1_registers(0), va)


# --- address size --------------------------------------------------------------------------------

BEYOND = 1 << 32  # with IPS=0, 32 bits


@pytest.mark.parametrize("level", range(3))
def test_next_table_beyond_the_output_size(level: int) -> None:
    tree = Tree()
    root = tree.chain((0,) * (level + 1), BEYOND | TABLE)
    answer = walk(tree, el1_registers(root, IPS=0), 0)
    assert fault(answer) == (FaultKind.ADDRESS_SIZE, level)
    assert hex(BEYOND) in reason_of(answer)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_output_beyond_the_output_size(level: int) -> None:
    tree = Tree()
    leaf = BEYOND | AF | (PAGE if level == 3 else BLOCK)
    root = tree.chain((0,) * (level + 1), leaf)
    assert fault(walk(tree, el1_registers(root, IPS=0), 0)) == (FaultKind.ADDRESS_SIZE, level)
    assert mapped(walk(tree, el1_registers(root, IPS=1), 0)).pa == BEYOND


def test_address_size_comes_before_the_access_flag() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, BEYOND | PAGE)
    assert fault(walk(tree, el1_registers(root, IPS=0), 0)) == (FaultKind.ADDRESS_SIZE, 3)


def test_root_beyond_the_output_size_is_level_0() -> None:
    answer = walk(Tree(), el1_registers(BEYOND, IPS=0, T0SZ=25), 0)
    assert fault(answer) == (FaultKind.ADDRESS_SIZE, 0)
    assert "root 0x100000000" in reason_of(answer)
    assert answer.steps == ()


def test_cpu_with_less_than_ips() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, 1 << 41 | AF | PAGE)
    registers = el1_registers(root)
    assert mapped(walk(tree, registers, 0)).pa == 1 << 41
    narrow = walk(tree, registers, 0, features=Features(pa_bits=40))
    assert fault(narrow) == (FaultKind.ADDRESS_SIZE, 3)


# --- 52 bits -------------------------------------------------------------------------------------


def test_lpa2_level_minus_1_and_high_address() -> None:
    """4K, DS=1, T0SZ=12: five levels; OA[51:50] in bits 9:8; shareability from TCR."""
    tree = Tree(base=0x4_0000_8000_0000 - 0x4_0000_0000_0000)
    leaf = 0x0003_4000_0000_0000 | 2 << 8 | AF | PAGE
    root = tree.chain((15, 1, 2, 3, 4), leaf)
    va = 15 << 48 | 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12
    answer = mapped(walk(tree, el1_registers(root, T0SZ=12, DS=1, IPS=6, SH0=3), va))
    assert answer.pa == 0x000B_4000_0000_0000
    assert [step.level for step in steps_of(answer)] == [-1, 0, 1, 2, 3]
    assert answer.shareability == 3
    short = walk(tree, el1_registers(root, T0SZ=12, DS=1, IPS=5), va)
    assert fault(short) == (FaultKind.ADDRESS_SIZE, 3)


def test_lpa2_tables_above_48_bits() -> None:
    tree = Tree(base=0x9_0000_0000_0000)
    root = tree.table()
    below = tree.table({0: OUT | AF | PAGE})
    tree.set(root, 0, (below & ((1 << 50) - 1)) | (below >> 50 << 8) | TABLE)
    ttbr = (root & ((1 << 48) - 1)) | (root >> 48 << 2)
    answer = walk(tree, el1_registers(ttbr, T0SZ=34, DS=1, IPS=6), 0)
    assert mapped(answer).pa == OUT
    assert steps_of(answer)[0].table == root


@pytest.mark.parametrize(("granule", "levels"), [("4K", 1), ("16K", 1)])
def test_lpa2_has_blocks_one_level_higher(granule: str, levels: int) -> None:
    t0sz = {"4K": 16, "16K": 17}[granule]
    tree = Tree(granule)
    root = tree.chain((1,) * levels, 1 << 47 | AF | BLOCK)
    size = {"4K": 1 << 39, "16K": 1 << 36}[granule]
    registers = el1_registers(root, T0SZ=t0sz, TG0=TG0[granule], DS=1, IPS=6)
    answer = mapped(walk(tree, registers, size | 0x123))
    assert (answer.pa, answer.size) == (1 << 47 | 0x123, size)
    plain = el1_registers(root, T0SZ=t0sz, TG0=TG0[granule])
    assert fault(walk(tree, plain, size)) == (FaultKind.TRANSLATION, {"4K": 0, "16K": 1}[granule])


def test_level_minus_1_has_no_block() -> None:
    tree = Tree()
    root = tree.chain((0,), AF | BLOCK)
    answer = walk(tree, el1_registers(root, T0SZ=12, DS=1, IPS=6), 0)
    assert fault(answer) == (FaultKind.TRANSLATION, -1)


def test_64k_52_bits() -> None:
    tree = Tree("64K", base=0x5_0000_8000_0000)
    last = tree.table({1: 0x0000_1234_0000_0000 | 0xA000 | AF | PAGE})
    middle = tree.table({0: last & ((1 << 48) - 1) | last >> 48 << 12 | TABLE})
    root = tree.table({3: middle & ((1 << 48) - 1) | middle >> 48 << 12 | TABLE})
    ttbr = root & ((1 << 48) - 1) | root >> 48 << 2
    registers = el1_registers(ttbr, T0SZ=12, TG0=TG0["64K"], IPS=6)
    assert mapped(walk(tree, registers, 3 << 42 | 0x1_2345)).pa == 0xA_1234_0000_2345


# --- access flag and dirty state -----------------------------------------------------------------


def test_access_flag() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, OUT | PAGE)
    assert fault(walk(tree, el1_registers(root), 0)) == (FaultKind.ACCESS_FLAG, 3)
    assert mapped(walk(tree, el1_registers(root, HA=1), 0)).pa == OUT
    old = Features(hafdbs=0)
    assert fault(walk(tree, el1_registers(root, HA=1), 0, features=old)) == (
        FaultKind.ACCESS_FLAG,
        3,
    )
    block = Tree()
    root = block.chain((0,) * 3, OUT | BLOCK)
    assert fault(walk(block, el1_registers(root), 0)) == (FaultKind.ACCESS_FLAG, 2)


def test_access_flag_comes_before_permission() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, OUT | RO | PAGE)
    assert fault(walk(tree, el1_registers(root), 0, WRITE)) == (FaultKind.ACCESS_FLAG, 3)


@pytest.mark.parametrize(
    ("control", "writable"),
    [({}, False), ({"HA": 1}, False), ({"HD": 1}, False), ({"HA": 1, "HD": 1}, True)],
)
def test_dirty_state(control: dict[str, int], writable: bool) -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | RO | DBM | PAGE)
    registers = el1_registers(root, **control)
    assert ("write" in allowed(tree, registers)) == writable
    plain = Tree()
    registers["TTBR0_EL1"] = plain.chain((0,) * 4, LEAF | RO | PAGE)
    assert "write" not in allowed(plain, registers)


def test_dirty_state_does_not_undo_aptable() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | RO | DBM | PAGE, RO_TABLE)
    assert "write" not in allowed(tree, el1_registers(root, HA=1, HD=1))


def test_writable_clean_counts_as_writable_for_wxn() -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | RO | DBM | PAGE)
    registers = el1_registers(root, HA=1, HD=1) | {"SCTLR_EL1": 1 | 1 << 19}
    assert "execute" not in allowed(tree, registers)


# --- which addresses a half has ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("va", "inside"),
    [
        (0, True), ((1 << 39) - 1, True), (1 << 39, False), (1 << 47, False), (1 << 54, False),
        (1 << 56, False), (1 << 63, False), ((1 << 64) - (1 << 39), True), ((1 << 64) - 1, True),
        ((1 << 64) - (1 << 39) - 1, False), (0x00FF_FFFF_FFFF_F000, False),
        (0xFF7F_FFFF_FFFF_F000, False),
    ],
)  # fmt: skip
def test_range_of_both_halves(va: int, inside: bool) -> None:
    tree = Tree()
    root = tree.table(dict.fromkeys(range(512), 1 << 30 | AF | BLOCK))
    answer = walk(tree, el1_registers(root, root, T0SZ=25, T1SZ=25), va)
    if inside:
        assert mapped(answer).pa == 1 << 30 | va & ((1 << 30) - 1)
    else:
        assert fault(answer) == (FaultKind.TRANSLATION, 0)
        assert answer.steps == ()


@pytest.mark.parametrize("tag", [0x00, 0x5A, 0xFF])
def test_top_byte(tag: int) -> None:
    """TBI: bits 63:56 are ignored and bit 55 chooses; TBID: not for instruction fetches."""
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | PAGE)
    low, high = tag << 56, tag << 56 | 0x00FF_0000_0000_0000
    for va, half, canonical in ((low, 0, tag == 0), (high, 1, tag == 0xFF)):
        for tbi in (0, 1):
            for tbid in (0, 1):
                control = {f"TBI{half}": tbi, f"TBID{half}": tbid}
                registers = el1_registers(root, root, **control)
                data = walk(tree, registers, va, READ)
                fetch = walk(tree, registers, va, EXECUTE)
                assert isinstance(data, Mapping) == (canonical or tbi == 1)
                assert isinstance(fetch, Mapping) == (canonical or (tbi == 1 and tbid == 0))


def test_bit_55_chooses_under_tbi() -> None:
    tree = Tree()
    lower, upper = (tree.chain((0,) * 4, out | AF | PAGE) for out in (0x1000, 0x2000))
    registers = el1_registers(lower, upper, TBI0=1, TBI1=1)
    assert mapped(walk(tree, registers, 0xFF00_0000_0000_0000)).pa == 0x1000
    assert mapped(walk(tree, registers, 0x00FF_0000_0000_0000)).pa == 0x2000


@pytest.mark.parametrize("control", [{}, {"TG0": 3}, {"T0SZ": 1}])
def test_epd(control: dict[str, int]) -> None:
    """A disabled half faults at level 0, reads nothing, and may be programmed with anything."""
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | PAGE)
    registers = el1_registers(root, root, EPD0=1, **control)
    answer = walk(tree, registers, 0)
    assert fault(answer) == (FaultKind.TRANSLATION, 0)
    assert "EPD=1" in reason_of(answer)
    assert mapped(walk(tree, registers, UPPER)).pa == OUT


def test_el2_host_has_two_halves() -> None:
    tree = Tree()
    lower, upper = (tree.chain((0,) * 4, out | AF | EL0 | PAGE) for out in (0x1000, 0x2000))
    registers = {"TTBR0_EL2": lower, "TTBR1_EL2": upper, "TCR_EL2": tcr_el1(), "MAIR_EL2": 0xFF}
    registers["HCR_EL2"] = hcr_el2(E2H=1)
    regime = regime_of(registers, EL20)
    assert mapped(translate(tree.memory, regime, 0, EL0_READ)).pa == 0x1000
    assert mapped(translate(tree.memory, regime, UPPER, WRITE)).pa == 0x2000


# --- attributes ----------------------------------------------------------------------------------


def test_memory_type_and_shareability() -> None:
    """MAIR in the helper: Attr0 Normal WB, Attr1 Device-nGnRE, Attr2 Normal NC."""
    wanted = {0: (0xFF, 3), 1: (0x04, 2), 2: (0x44, 2), 3: (0x00, 2)}
    for index, (attr, sh) in wanted.items():
        tree = Tree()
        root = tree.chain((0,) * 4, LEAF | index << 2 | PAGE)
        answer = mapped(walk(tree, el1_registers(root), 0x123))
        assert (answer.attr, answer.shareability) == (attr, sh)
        assert answer.par() == attr << 56 | OUT | 1 << 11 | 1 << 9 | sh << 7


def test_contiguous_bit_changes_no_translation() -> None:
    tree = Tree()
    table = tree.table({i: OUT + (i << 12) | AF | CONT | PAGE for i in range(16)})
    root = tree.chain((0,) * 3, table | TABLE)
    for i in range(16):
        answer = mapped(walk(tree, el1_registers(root), i << 12))
        assert (answer.pa, answer.size) == (OUT + (i << 12), 4096)
        assert answer.leaf is not None
        assert answer.leaf.contiguous


@pytest.mark.parametrize(
    ("scr", "ns", "table", "non_secure"),
    [(1, 0, 0, True), (0, 0, 0, False), (0, 1 << 5, 0, True), (0, 0, NS_TABLE, True)],
)
def test_security_of_the_output(scr: int, ns: int, table: int, non_secure: bool) -> None:
    tree = Tree()
    root = tree.chain((0,) * 4, LEAF | ns | PAGE, table)
    registers = el1_registers(root, HPD0=1) | {"SCR_EL3": scr | 1 << 10}
    answer = mapped(walk(tree, registers, 0))
    assert answer.non_secure == non_secure
    assert answer.par() >> 9 & 1 == non_secure


# --- stage 1 off ---------------------------------------------------------------------------------

OFF = {"SCTLR_EL1": 0}


def test_mmu_off() -> None:
    registers = el1_registers(0) | OFF
    answer = mapped(walk(Tree(), registers, 0x1234_5678))
    assert (answer.pa, answer.leaf, answer.size) == (0x1234_5678, None, 0)
    assert (answer.attr, answer.shareability) == (0x00, 2)
    for va in (1 << 52, UPPER):
        assert fault(walk(Tree(), registers, va)) == (FaultKind.ADDRESS_SIZE, 0)
    narrow = walk(Tree(), registers, 1 << 40, features=Features(pa_bits=40))
    assert fault(narrow) == (FaultKind.ADDRESS_SIZE, 0)


def test_mmu_off_ignores_the_top_byte() -> None:
    va = 0x5A00_0000_1000_0000
    registers = el1_registers(0, TBI0=1, TBID0=1) | OFF
    assert mapped(walk(Tree(), registers, va, READ)).pa == 0x1000_0000
    assert fault(walk(Tree(), registers, va, EXECUTE)) == (FaultKind.ADDRESS_SIZE, 0)
    registers = el1_registers(0, TBI0=1) | OFF
    assert mapped(walk(Tree(), registers, va, EXECUTE)).pa == 0x1000_0000


@pytest.mark.parametrize(("sctlr", "attr"), [(0, 0x44), (1 << 12, 0xAA)])
def test_mmu_off_fetches_are_normal(sctlr: int, attr: int) -> None:
    """S1DisabledOutput: an instruction fetch is Normal, Write-Through with SCTLR.I=1, else NC."""
    answer = mapped(walk(Tree(), el1_registers(0) | {"SCTLR_EL1": sctlr}, 0x1000, EXECUTE))
    assert (answer.attr, answer.shareability) == (attr, 2)


# --- anything at all -----------------------------------------------------------------------------


def random_tables(seed: int, pages: int = 8) -> bytes:
    """Descriptors of all types that mostly point into these same pages (at address 0)."""
    choose = random.Random(seed)
    words = (
        choose.getrandbits(64) & choose.choice((0xFFFF_0000_0000_FFFF, 0xFFF, HIGH - 1))
        | choose.randrange(pages) << 12
        | choose.choice((0, 1, 3, 3, 3, 3))
        for _ in range(pages * 512)
    )
    return struct.pack(f"<{pages * 512}Q", *words)


TABLES = [SparseMemory({0: random_tables(seed)}) for seed in range(8)]


@settings(max_examples=400)
@given(
    st.sampled_from(TABLES),
    st.sampled_from(list(TG0)),
    st.integers(12, 48),
    st.booleans(),
    st.integers(0, (1 << 64) - 1) | st.integers(0, (1 << 52) - 1),
    st.sampled_from([None, *ACCESSES]),
)
def test_random_tables(
    memory: SparseMemory, granule: str, t0sz: int, ds: bool, va: int, access: Access | None
) -> None:
    """Whatever the tables hold, the answer is a mapping or a fault with a code."""
    registers = el1_registers(0x1000, 0x1000, T0SZ=t0sz, TG0=TG0[granule], DS=int(ds), IPS=6)
    if (t0sz < 16 and not ds and granule != "64K") or (t0sz == 48 and granule == "64K"):
        return
    answer = translate(memory, regime_of(registers, EL1), va, access)
    assert len(answer.steps) <= 5
    assert 0 <= answer.par() < 1 << 64
    assert answer.par() & 1 == isinstance(answer, Fault)

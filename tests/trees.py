"""Translation tables made by hand, registers to walk them, and ELF cores to hold them.

Bit positions are written out here, apart from `ttbr.arch`, so that the two can disagree.
"""

import struct
from collections.abc import Iterable

from ttbr.arch.faults import Fault, FaultKind
from ttbr.arch.features import Features
from ttbr.arch.regime import EL1, regime_of
from ttbr.memory import SparseMemory
from ttbr.walk import (
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EXECUTE,
    READ,
    WRITE,
    Access,
    Mapping,
    Step,
    translate,
)

TABLE, PAGE, BLOCK = 0b11, 0b11, 0b01
AF, NG = 1 << 10, 1 << 11
OSH, ISH = 2 << 8, 3 << 8
EL0, RO = 1 << 6, 1 << 7  # AP[1], AP[2]
GP, DBM, CONT, PXN, UXN = 1 << 50, 1 << 51, 1 << 52, 1 << 53, 1 << 54
PXN_TABLE, UXN_TABLE, NO_EL0_TABLE, RO_TABLE, NS_TABLE = (1 << n for n in range(59, 64))
S2_READ, S2_WRITE, S2_RW = 1 << 6, 2 << 6, 3 << 6
S2_NORMAL = 0xF << 2  # MemAttr: inner and outer Write-Back

SIZES = {"4K": 4096, "16K": 16384, "64K": 65536}
TG0 = {"4K": 0, "64K": 1, "16K": 2}
TG1 = {"16K": 1, "4K": 2, "64K": 3}

# Lowest bit of each field, from the register pages of the Arm ARM.
TCR_EL1 = {
    "T0SZ": 0, "EPD0": 7, "IRGN0": 8, "ORGN0": 10, "SH0": 12, "TG0": 14, "T1SZ": 16, "A1": 22,
    "EPD1": 23, "IRGN1": 24, "ORGN1": 26, "SH1": 28, "TG1": 30, "IPS": 32, "AS": 36, "TBI0": 37,
    "TBI1": 38, "HA": 39, "HD": 40, "HPD0": 41, "HPD1": 42, "HWU059": 43, "HWU060": 44,
    "HWU061": 45, "HWU062": 46, "HWU159": 47, "HWU160": 48, "HWU161": 49, "HWU162": 50,
    "TBID0": 51, "TBID1": 52, "NFD0": 53, "NFD1": 54, "E0PD0": 55, "E0PD1": 56, "TCMA0": 57,
    "TCMA1": 58, "DS": 59, "MTX0": 60, "MTX1": 61,
}  # fmt: skip
TCR_EL2 = {
    "T0SZ": 0, "IRGN0": 8, "ORGN0": 10, "SH0": 12, "TG0": 14, "PS": 16, "TBI": 20, "HA": 21,
    "HD": 22, "HPD": 24, "HWU59": 25, "HWU60": 26, "HWU61": 27, "HWU62": 28, "TBID": 29,
    "TCMA": 30, "DS": 32, "MTX": 33,
}  # fmt: skip
VTCR_EL2 = {
    "T0SZ": 0, "SL0": 6, "IRGN0": 8, "ORGN0": 10, "SH0": 12, "TG0": 14, "PS": 16, "VS": 19,
    "HA": 21, "HD": 22, "HWU59": 25, "HWU60": 26, "HWU61": 27, "HWU62": 28, "NSW": 29, "NSA": 30,
    "DS": 32, "SL2": 33, "AssuredOnly": 34, "TL1": 35, "S2PIE": 36, "S2POE": 37, "D128": 38,
    "GCSH": 40, "TL0": 41, "HAFT": 44, "HDBSS": 45,
}  # fmt: skip
HCR_EL2 = {
    "VM": 0, "SWIO": 1, "PTW": 2, "DC": 12, "TGE": 27, "RW": 31, "CD": 32, "E2H": 34, "NV": 42,
    "NV1": 43, "FWB": 46,
}  # fmt: skip


def word(positions: dict[str, int], res1: int = 0, /, **fields: int) -> int:
    """A register value from fields by name."""
    value = res1
    for name, number in fields.items():
        value |= number << positions[name]
    return value


def tcr_el1(**fields: int) -> int:
    """TCR_EL1: 4K granules, 48-bit ranges and 48-bit output where *fields* do not say else."""
    return word(TCR_EL1, **({"T0SZ": 16, "T1SZ": 16, "TG1": 2, "IPS": 5} | fields))


def tcr_el2(**fields: int) -> int:
    """TCR_EL2 with E2H=0, also TCR_EL3: 4K granule, 48 bits."""
    return word(TCR_EL2, 1 << 31 | 1 << 23, **({"T0SZ": 16, "PS": 5} | fields))


def vtcr_el2(**fields: int) -> int:
    """VTCR_EL2: 4K granule, 40-bit IPA from level 1, 48-bit output."""
    return word(VTCR_EL2, 1 << 31, **({"T0SZ": 24, "SL0": 1, "PS": 5} | fields))


def hcr_el2(**fields: int) -> int:
    """HCR_EL2 with an AArch64 EL1."""
    return word(HCR_EL2, **({"RW": 1} | fields))


class Tree:
    """Tables of one granule, given out one after another from *base*."""

    def __init__(self, granule: str = "4K", base: int = 0x8000_0000) -> None:
        self.size = SIZES[granule]
        self.next = base
        self.tables: dict[int, bytearray] = {}

    def table(self, entries: dict[int, int] | None = None, count: int = 1) -> int:
        """The address of *count* fresh adjoining tables, aligned to their size."""
        size = self.size * count
        address = -(-self.next // size) * size
        self.next = address + size
        self.tables[address] = bytearray(size)
        for index, descriptor in (entries or {}).items():
            self.set(address, index, descriptor)
        return address

    def set(self, table: int, index: int, descriptor: int) -> None:
        struct.pack_into("<Q", self.tables[table], 8 * index, descriptor)

    def chain(self, indices: Iterable[int], leaf: int, upper: int = 0) -> int:
        """The root of one table a level: entry ``indices[n]`` of each leads on, the last is *leaf*.

        *upper* is put into each table descriptor (hierarchical bits).
        """
        descriptor = leaf
        address = 0
        for index in reversed(list(indices)):
            address = self.table({index: descriptor})
            descriptor = address | TABLE | upper
        return address

    @property
    def memory(self) -> SparseMemory:
        """The tables made so far; later `set` calls show in it."""
        return SparseMemory(self.tables)


def el1_registers(root: int, upper_root: int = 0, /, **tcr: int) -> dict[str, int]:
    """EL1&0 with the MMU on; Attr0 is Normal Write-Back, Attr1 Device-nGnRE, Attr2 Normal NC."""
    return {
        "TTBR0_EL1": root,
        "TTBR1_EL1": upper_root,
        "TCR_EL1": tcr_el1(**tcr),
        "SCTLR_EL1": 1,
        "MAIR_EL1": 0x4404FF,
    }


def stage2_registers(
    root: int, hcr: dict[str, int] | None = None, /, **vtcr: int
) -> dict[str, int]:
    """Stage 2 in force."""
    return {
        "VTTBR_EL2": root,
        "VTCR_EL2": vtcr_el2(**vtcr),
        "HCR_EL2": hcr_el2(**({"VM": 1} | (hcr or {}))),
    }


def elf_core(
    segments: Iterable[tuple[int, bytes]],
    notes: bytes = b"",
    *,
    machine: int = 183,
    kind: int = 4,
    ident: bytes = b"\x7fELF\x02\x01\x01",
) -> bytes:
    """An ELF64 core: one PT_NOTE when there are *notes*, one PT_LOAD a segment (address, bytes)."""
    parts = [(4, 0, notes)] if notes else []
    parts += [(1, address, data) for address, data in segments]
    at = 64 + 56 * len(parts)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, kind, machine, 1, 0, 64, 0, 0, 64, 56, len(parts), 0, 0, 0
    )
    body = b""
    for type_, address, data in parts:
        size = len(data)
        head += struct.pack("<IIQQQQQQ", type_, 0, at + len(body), 0, address, size, size, 1)
        body += data
    return head + body


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    """One ELF note, padded to 4 bytes."""

    def pad(part: bytes) -> bytes:
        return part + b"\0" * (-len(part) % 4)

    return struct.pack("<III", len(owner) + 1, len(data), kind) + pad(owner + b"\0") + pad(data)


def register_note(registers: dict[str, int]) -> bytes:
    """System registers as an ``AARCH64-SYSREGS`` note."""
    text = "".join(f"{name}={value:#x}\n" for name, value in registers.items())
    return note(b"AARCH64-SYSREGS", 1, text.encode())


def tree_core(tree: Tree, registers: dict[str, int], pstate: int = 0x5) -> bytes:
    """A core with a tree's tables, its registers and PSTATE (EL1h by default)."""
    status = b"\0" * (112 + 33 * 8) + struct.pack("<Q", pstate) + b"\0" * 8
    notes = note(b"CORE", 1, status) + register_note(registers)
    return elf_core(((a, bytes(data)) for a, data in tree.tables.items()), notes)


# --- asking ------------------------------------------------------------------------------------

ACCESSES = (READ, WRITE, EXECUTE, EL0_READ, EL0_WRITE, EL0_EXECUTE)


def walk(
    tree: Tree,
    registers: dict[str, int],
    va: int,
    access: Access | None = None,
    *,
    regime: str = EL1,
    features: Features | None = None,
    stage1_only: bool = False,
) -> Mapping | Fault:
    """`translate` through a tree's tables."""
    made = regime_of(registers, regime, features)
    return translate(tree.memory, made, va, access, stage1_only=stage1_only)


def mapped(answer: object) -> Mapping:
    """The answer, which must be a mapping."""
    assert isinstance(answer, Mapping), answer
    return answer


def fault(answer: object) -> tuple[FaultKind, int | None]:
    """Kind and level of the answer, which must be a fault."""
    assert isinstance(answer, Fault), answer
    return answer.kind, answer.level


def reason_of(answer: object) -> str:
    assert isinstance(answer, Fault), answer
    return answer.reason


def steps_of(answer: Mapping | Fault) -> list[Step]:
    return [step for step in answer.steps if isinstance(step, Step)]


def allowed(tree: Tree, registers: dict[str, int], va: int = 0) -> set[str]:
    """Which of the six accesses the page at *va* permits."""
    answers = {access.name: walk(tree, registers, va, access) for access in ACCESSES}
    for answer in answers.values():
        assert isinstance(answer, Mapping) or answer.kind is FaultKind.PERMISSION, answer
    return {name for name, answer in answers.items() if isinstance(answer, Mapping)}

"""A64 instructions as 32-bit words: what a harness of a few dozen instructions needs.

System instructions and register moves share one format (Arm ARM C4.1, "System instruction class
encoding overview")::

    1101 0101 00 L op0 op1 CRn CRm op2 Rt

so a name is one row of ``(op0, op1, CRn, CRm, op2)``: `SYSTEM_REGISTERS` (D24 of the Arm ARM) and
`SYSTEM_OPERATIONS` (C5.3 to C5.5). `Code` puts words one after another and resolves branches.
"""

from ttbr.errors import InvalidError

__all__ = [
    "CONDITIONS",
    "ERET",
    "ISB",
    "NOP",
    "SYSTEM_OPERATIONS",
    "SYSTEM_REGISTERS",
    "Code",
    "add_immediate",
    "br",
    "dmb",
    "dsb",
    "hlt",
    "hvc",
    "ldr",
    "ldr_post",
    "lsr",
    "mov",
    "mov_immediate",
    "movk",
    "movz",
    "mrs",
    "msr",
    "msr_pan",
    "smc",
    "str_",
    "str_post",
    "sub_immediate",
    "svc",
    "system",
    "system_register",
]

Encoding = tuple[int, int, int, int, int]

ISB = 0xD5033FDF
NOP = 0xD503201F
ERET = 0xD69F03E0

SYSTEM_REGISTERS: dict[str, Encoding] = {
    # name: (op0, op1, CRn, CRm, op2)
    "MIDR_EL1": (3, 0, 0, 0, 0),
    "MPIDR_EL1": (3, 0, 0, 0, 5),
    "ID_AA64PFR0_EL1": (3, 0, 0, 4, 0),
    "ID_AA64PFR1_EL1": (3, 0, 0, 4, 1),
    "ID_AA64ISAR0_EL1": (3, 0, 0, 6, 0),
    "ID_AA64ISAR1_EL1": (3, 0, 0, 6, 1),
    "ID_AA64MMFR0_EL1": (3, 0, 0, 7, 0),
    "ID_AA64MMFR1_EL1": (3, 0, 0, 7, 1),
    "ID_AA64MMFR2_EL1": (3, 0, 0, 7, 2),
    "CTR_EL0": (3, 3, 0, 0, 1),
    "SCTLR_EL1": (3, 0, 1, 0, 0),
    "SCTLR_EL12": (3, 5, 1, 0, 0),
    "SCTLR_EL2": (3, 4, 1, 0, 0),
    "SCTLR_EL3": (3, 6, 1, 0, 0),
    "CPACR_EL1": (3, 0, 1, 0, 2),
    "HCR_EL2": (3, 4, 1, 1, 0),
    "HCRX_EL2": (3, 4, 1, 2, 2),
    "CPTR_EL2": (3, 4, 1, 1, 2),
    "SCR_EL3": (3, 6, 1, 1, 0),
    "CPTR_EL3": (3, 6, 1, 1, 2),
    "TTBR0_EL1": (3, 0, 2, 0, 0),
    "TTBR1_EL1": (3, 0, 2, 0, 1),
    "TTBR0_EL12": (3, 5, 2, 0, 0),
    "TTBR1_EL12": (3, 5, 2, 0, 1),
    "TTBR0_EL2": (3, 4, 2, 0, 0),
    "TTBR1_EL2": (3, 4, 2, 0, 1),
    "TTBR0_EL3": (3, 6, 2, 0, 0),
    "TCR_EL1": (3, 0, 2, 0, 2),
    "TCR_EL12": (3, 5, 2, 0, 2),
    "TCR_EL2": (3, 4, 2, 0, 2),
    "TCR_EL3": (3, 6, 2, 0, 2),
    "VTTBR_EL2": (3, 4, 2, 1, 0),
    "VTCR_EL2": (3, 4, 2, 1, 2),
    "SPSR_EL1": (3, 0, 4, 0, 0),
    "SPSR_EL2": (3, 4, 4, 0, 0),
    "SPSR_EL3": (3, 6, 4, 0, 0),
    "ELR_EL1": (3, 0, 4, 0, 1),
    "ELR_EL2": (3, 4, 4, 0, 1),
    "ELR_EL3": (3, 6, 4, 0, 1),
    "SP_EL0": (3, 0, 4, 1, 0),
    "SP_EL1": (3, 4, 4, 1, 0),
    "SP_EL2": (3, 6, 4, 1, 0),
    "SPSel": (3, 0, 4, 2, 0),
    "CurrentEL": (3, 0, 4, 2, 2),
    "PAN": (3, 0, 4, 2, 3),
    "UAO": (3, 0, 4, 2, 4),
    "DAIF": (3, 3, 4, 2, 1),
    "NZCV": (3, 3, 4, 2, 0),
    "AFSR0_EL1": (3, 0, 5, 1, 0),
    "ESR_EL1": (3, 0, 5, 2, 0),
    "ESR_EL2": (3, 4, 5, 2, 0),
    "ESR_EL3": (3, 6, 5, 2, 0),
    "FAR_EL1": (3, 0, 6, 0, 0),
    "FAR_EL2": (3, 4, 6, 0, 0),
    "FAR_EL3": (3, 6, 6, 0, 0),
    "HPFAR_EL2": (3, 4, 6, 0, 4),
    "PAR_EL1": (3, 0, 7, 4, 0),
    "MAIR_EL1": (3, 0, 10, 2, 0),
    "MAIR_EL12": (3, 5, 10, 2, 0),
    "MAIR_EL2": (3, 4, 10, 2, 0),
    "MAIR_EL3": (3, 6, 10, 2, 0),
    "AMAIR_EL1": (3, 0, 10, 3, 0),
    "AMAIR_EL2": (3, 4, 10, 3, 0),
    "VBAR_EL1": (3, 0, 12, 0, 0),
    "VBAR_EL2": (3, 4, 12, 0, 0),
    "VBAR_EL3": (3, 6, 12, 0, 0),
    "CONTEXTIDR_EL1": (3, 0, 13, 0, 1),
    "CONTEXTIDR_EL2": (3, 4, 13, 0, 1),
    "TPIDR_EL0": (3, 3, 13, 0, 2),
    "TPIDR_EL1": (3, 0, 13, 0, 4),
    "TPIDR_EL2": (3, 4, 13, 0, 2),
    "TPIDR_EL3": (3, 6, 13, 0, 2),
}

SYSTEM_OPERATIONS: dict[str, Encoding] = {
    "AT S1E1R": (1, 0, 7, 8, 0),
    "AT S1E1W": (1, 0, 7, 8, 1),
    "AT S1E0R": (1, 0, 7, 8, 2),
    "AT S1E0W": (1, 0, 7, 8, 3),
    "AT S1E1RP": (1, 0, 7, 9, 0),
    "AT S1E1WP": (1, 0, 7, 9, 1),
    "AT S1E2R": (1, 4, 7, 8, 0),
    "AT S1E2W": (1, 4, 7, 8, 1),
    "AT S12E1R": (1, 4, 7, 8, 4),
    "AT S12E1W": (1, 4, 7, 8, 5),
    "AT S12E0R": (1, 4, 7, 8, 6),
    "AT S12E0W": (1, 4, 7, 8, 7),
    "AT S1E3R": (1, 6, 7, 8, 0),
    "AT S1E3W": (1, 6, 7, 8, 1),
    "IC IALLUIS": (1, 0, 7, 1, 0),
    "IC IALLU": (1, 0, 7, 5, 0),
    "IC IVAU": (1, 3, 7, 5, 1),
    "DC IVAC": (1, 0, 7, 6, 1),
    "DC ZVA": (1, 3, 7, 4, 1),
    "DC CVAC": (1, 3, 7, 10, 1),
    "DC CVAU": (1, 3, 7, 11, 1),
    "DC CIVAC": (1, 3, 7, 14, 1),
    "TLBI VMALLE1IS": (1, 0, 8, 3, 0),
    "TLBI VAE1IS": (1, 0, 8, 3, 1),
    "TLBI ASIDE1IS": (1, 0, 8, 3, 2),
    "TLBI VAAE1IS": (1, 0, 8, 3, 3),
    "TLBI VALE1IS": (1, 0, 8, 3, 5),
    "TLBI VAALE1IS": (1, 0, 8, 3, 7),
    "TLBI VMALLE1": (1, 0, 8, 7, 0),
    "TLBI VAE1": (1, 0, 8, 7, 1),
    "TLBI ASIDE1": (1, 0, 8, 7, 2),
    "TLBI VAAE1": (1, 0, 8, 7, 3),
    "TLBI VALE1": (1, 0, 8, 7, 5),
    "TLBI VAALE1": (1, 0, 8, 7, 7),
    "TLBI IPAS2E1IS": (1, 4, 8, 0, 1),
    "TLBI IPAS2LE1IS": (1, 4, 8, 0, 5),
    "TLBI ALLE2IS": (1, 4, 8, 3, 0),
    "TLBI VAE2IS": (1, 4, 8, 3, 1),
    "TLBI ALLE1IS": (1, 4, 8, 3, 4),
    "TLBI VALE2IS": (1, 4, 8, 3, 5),
    "TLBI VMALLS12E1IS": (1, 4, 8, 3, 6),
    "TLBI IPAS2E1": (1, 4, 8, 4, 1),
    "TLBI IPAS2LE1": (1, 4, 8, 4, 5),
    "TLBI ALLE2": (1, 4, 8, 7, 0),
    "TLBI VAE2": (1, 4, 8, 7, 1),
    "TLBI ALLE1": (1, 4, 8, 7, 4),
    "TLBI VALE2": (1, 4, 8, 7, 5),
    "TLBI VMALLS12E1": (1, 4, 8, 7, 6),
    "TLBI ALLE3IS": (1, 6, 8, 3, 0),
    "TLBI VAE3IS": (1, 6, 8, 3, 1),
    "TLBI VALE3IS": (1, 6, 8, 3, 5),
    "TLBI ALLE3": (1, 6, 8, 7, 0),
    "TLBI VAE3": (1, 6, 8, 7, 1),
    "TLBI VALE3": (1, 6, 8, 7, 5),
}

# C1.2.4; AL is left out, since `b` says it.
_CONDITIONS = ("eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le")
CONDITIONS = {name: code for code, name in enumerate(_CONDITIONS)}

BARRIER_DOMAINS = {"sy": 15, "st": 14, "ld": 13, "ish": 11, "ishst": 10, "ishld": 9, "nsh": 7}

# log2 of the access size, by bytes: bits 31:30 of a load or store.
SIZES = {1: 0, 2: 1, 4: 2, 8: 3}


def _row(table: dict[str, Encoding], what: str, name: str) -> Encoding:
    row = table.get(name) or table.get(name.upper())
    if row is None:
        raise InvalidError(f"{what} {name!r}: not in the table of encodings")
    return row


def system_register(name: str) -> Encoding:
    """(op0, op1, CRn, CRm, op2) of the system register *name*; `InvalidError` if not known."""
    return _row(SYSTEM_REGISTERS, "system register", name)


def _system(read: int, encoding: Encoding, rt: int) -> int:
    op0, op1, crn, crm, op2 = encoding
    word = 0xD5000000 | read << 21 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
    return word | rt


def msr(name: str, rt: int) -> int:
    """``MSR name, X<rt>``."""
    return _system(0, system_register(name), rt)


def mrs(rt: int, name: str) -> int:
    """``MRS X<rt>, name``."""
    return _system(1, system_register(name), rt)


def msr_pan(value: int) -> int:
    """``MSR PAN, #value`` (FEAT_PAN)."""
    return 0xD500409F | (value & 1) << 8


def system(name: str, rt: int = 31) -> int:
    """``AT``, ``TLBI``, ``DC`` or ``IC`` as in ``system("AT S1E2R", 3)``; *rt* 31 is XZR."""
    return _system(0, _row(SYSTEM_OPERATIONS, "system operation", name), rt)


def _barrier(word: int, domain: str) -> int:
    if domain not in BARRIER_DOMAINS:
        raise InvalidError(f"barrier {domain!r}: must be one of {', '.join(BARRIER_DOMAINS)}")
    return word | BARRIER_DOMAINS[domain] << 8


def dsb(domain: str = "sy") -> int:
    """``DSB domain``."""
    return _barrier(0xD503309F, domain)


def dmb(domain: str = "sy") -> int:
    """``DMB domain``."""
    return _barrier(0xD50330BF, domain)


def _field(name: str, value: int, width: int) -> int:
    if value < 0 or value >> width:
        raise InvalidError(f"{name} {value:#x}: does not fit in {width} bits")
    return value


def movz(rd: int, immediate: int, shift: int = 0) -> int:
    """``MOVZ X<rd>, #immediate, LSL #shift``; *shift* is 0, 16, 32 or 48."""
    return 0xD2800000 | shift // 16 << 21 | _field("immediate", immediate, 16) << 5 | rd


def movk(rd: int, immediate: int, shift: int = 0) -> int:
    """``MOVK X<rd>, #immediate, LSL #shift``; *shift* is 0, 16, 32 or 48."""
    return 0xF2800000 | shift // 16 << 21 | _field("immediate", immediate, 16) << 5 | rd


def mov_immediate(rd: int, value: int) -> list[int]:
    """The MOVZ and MOVKs that load a 64-bit *value* into X<rd>."""
    parts = [(value >> shift & 0xFFFF, shift) for shift in (0, 16, 32, 48)]
    used = [part for part in parts if part[0]] or parts[:1]
    return [movz(rd, *used[0]), *(movk(rd, *part) for part in used[1:])]


def mov(rd: int, rm: int) -> int:
    """``MOV X<rd>, X<rm>``."""
    return 0xAA0003E0 | rm << 16 | rd


def add_immediate(rd: int, rn: int, immediate: int) -> int:
    """``ADD X<rd>, X<rn>, #immediate`` (12 bits)."""
    return 0x91000000 | _field("immediate", immediate, 12) << 10 | rn << 5 | rd


def sub_immediate(rd: int, rn: int, immediate: int, flags: bool = False) -> int:
    """``SUB X<rd>, X<rn>, #immediate`` (12 bits), or ``SUBS`` with *flags*."""
    return 0xD1000000 | flags << 29 | _field("immediate", immediate, 12) << 10 | rn << 5 | rd


def _access(load: int, rt: int, rn: int, offset: int, size: int) -> int:
    scale = SIZES[size]
    if offset % size:
        raise InvalidError(f"offset {offset:#x}: must be a multiple of {size}")
    imm12 = _field("offset", offset // size, 12)
    return 0x39000000 | scale << 30 | load << 22 | imm12 << 10 | rn << 5 | rt


def ldr(rt: int, rn: int, offset: int = 0, size: int = 8) -> int:
    """``LDR`` of *size* bytes (1, 2, 4, 8) at ``[X<rn>, #offset]``, zero extended."""
    return _access(1, rt, rn, offset, size)


def str_(rt: int, rn: int, offset: int = 0, size: int = 8) -> int:
    """``STR`` of *size* bytes (1, 2, 4, 8) at ``[X<rn>, #offset]``."""
    return _access(0, rt, rn, offset, size)


def ldr_post(rt: int, rn: int, step: int) -> int:
    """``LDR X<rt>, [X<rn>], #step``."""
    return 0xF8400400 | (step & 0x1FF) << 12 | rn << 5 | rt


def str_post(rt: int, rn: int, step: int) -> int:
    """``STR X<rt>, [X<rn>], #step``."""
    return 0xF8000400 | (step & 0x1FF) << 12 | rn << 5 | rt


def lsr(rd: int, rn: int, shift: int) -> int:
    """``LSR X<rd>, X<rn>, #shift``."""
    return 0xD340FC00 | _field("shift", shift, 6) << 16 | rn << 5 | rd


def br(rn: int) -> int:
    """``BR X<rn>``."""
    return 0xD61F0000 | rn << 5


def svc(immediate: int = 0) -> int:
    """``SVC #immediate``."""
    return 0xD4000001 | _field("immediate", immediate, 16) << 5


def hvc(immediate: int = 0) -> int:
    """``HVC #immediate``."""
    return 0xD4000002 | _field("immediate", immediate, 16) << 5


def smc(immediate: int = 0) -> int:
    """``SMC #immediate``."""
    return 0xD4000003 | _field("immediate", immediate, 16) << 5


def hlt(immediate: int = 0) -> int:
    """``HLT #immediate``; ``#0xf000`` is the semihosting call."""
    return 0xD4400000 | _field("immediate", immediate, 16) << 5


class Code:
    """Words at consecutive addresses from *base*, with labels that branches may name.

    Labels may be used before they are defined; `bytes` resolves them and raises `InvalidError`
    for one that is missing or out of reach.
    """

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self._words: list[int] = []
        self._labels: dict[str, int] = {}
        self._branches: list[tuple[int, int, int, str]] = []

    @property
    def here(self) -> int:
        """The address of the next word."""
        return self.base + 4 * len(self._words)

    def emit(self, *words: int) -> None:
        """Append *words*."""
        self._words += words

    def align(self, boundary: int) -> None:
        """Append NOPs up to the next multiple of *boundary* bytes."""
        while self.here % boundary:
            self._words.append(NOP)

    def label(self, name: str) -> int:
        """Call this place *name*; returns its address."""
        if name in self._labels:
            raise InvalidError(f"label {name!r}: defined twice")
        self._labels[name] = self.here
        return self.here

    def address(self, name: str) -> int:
        """The address of label *name*."""
        if name not in self._labels:
            raise InvalidError(f"label {name!r}: not defined")
        return self._labels[name]

    def nearest(self, address: int) -> str:
        """The last label at or before *address*; an empty string before the first."""
        before = [(at, name) for name, at in self._labels.items() if at <= address]
        return max(before)[1] if before else ""

    def b(self, label: str) -> None:
        """``B label``."""
        self._branch(0x14000000, 26, 0, label)

    def bl(self, label: str) -> None:
        """``BL label``."""
        self._branch(0x94000000, 26, 0, label)

    def b_cond(self, condition: str, label: str) -> None:
        """``B.condition label``."""
        self._branch(0x54000000 | CONDITIONS[condition], 19, 5, label)

    def cbz(self, rt: int, label: str) -> None:
        """``CBZ X<rt>, label``."""
        self._branch(0xB4000000 | rt, 19, 5, label)

    def cbnz(self, rt: int, label: str) -> None:
        """``CBNZ X<rt>, label``."""
        self._branch(0xB5000000 | rt, 19, 5, label)

    def _branch(self, word: int, width: int, low: int, label: str) -> None:
        self._branches.append((len(self._words), width, low, label))
        self._words.append(word)

    def __bytes__(self) -> bytes:
        words = list(self._words)
        for at, width, low, label in self._branches:
            distance = (self.address(label) - self.base) // 4 - at
            if not -(1 << width - 1) <= distance < 1 << width - 1:
                raise InvalidError(f"label {label!r}: out of reach of the branch to it")
            words[at] |= (distance & (1 << width) - 1) << low
        return b"".join(word.to_bytes(4, "little") for word in words)

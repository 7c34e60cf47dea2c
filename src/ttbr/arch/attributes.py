"""Memory attributes: MAIR encodings, shareability, how two stages combine; access permissions.

A memory type is kept as its 8-bit MAIR_ELx encoding (an int), since that is what PAR_EL1 and the
descriptors speak; `memory_text` names it. Permissions are a mask of the six bits `PR` to `UX`.
Sources: Arm ARM MAIR_EL1 (D24.2), D8.4 (permissions), D8.6 (memory attributes).
"""

from functools import cache

__all__ = [
    "DEVICE_NGNRNE",
    "NORMAL_NC",
    "PR",
    "PW",
    "PX",
    "SHAREABILITY",
    "UR",
    "UW",
    "UX",
    "combine_memory",
    "combine_shareability",
    "is_device",
    "memory_text",
    "permission_text",
    "reported_shareability",
    "stage1_permissions",
    "stage2_memory",
    "stage2_memory_text",
    "stage2_permissions",
]

DEVICE_NGNRNE = 0x00
NORMAL_NC = 0x44
NORMAL_WT_RA = 0xAA
NORMAL_WB = 0xFF
TAGGED = 0xF0
# Stands for a stage 2 MemAttr that is reserved: a reserved MAIR encoding.
RESERVED = 0x02

NON_SHAREABLE, OUTER_SHAREABLE, INNER_SHAREABLE = 0b00, 0b10, 0b11
SHAREABILITY = {0b00: "NSH", 0b01: "reserved", 0b10: "OSH", 0b11: "ISH"}

_DEVICE = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")
# MAIR nibble (outer 7:4, inner 3:0) of Normal memory: policy, then R and W allocation hints.
_POLICY = {0b00: "WT-transient", 0b01: "WB-transient", 0b10: "WT", 0b11: "WB"}
# Half of a stage 2 MemAttr as a MAIR nibble.
_NIBBLE = {0b01: 0b0100, 0b10: 0b1011, 0b11: 0b1111}


def is_device(attr: int) -> bool:
    """Whether MAIR encoding *attr* is Device memory (0b0000dd00, with FEAT_XS 0b0000dd01)."""
    return attr & 0xF2 == 0


def _nibble(value: int) -> str:
    if value == 0b0100:
        return "NC"
    hints = ("", "W", "R", "RW")[value & 3]
    return _POLICY[value >> 2] + (f"-{hints}A" if hints else "")


def memory_text(attr: int) -> str:
    """The memory type of MAIR encoding *attr*; ``reserved (0x..)`` for UNPREDICTABLE encodings."""
    if is_device(attr):
        return _DEVICE[attr >> 2 & 3] + ("" if attr & 1 == 0 else " (XS=0)")
    special = {
        0x40: "Normal NC (XS=0)",
        0xA0: "Normal WT-RA (XS=0)",
        TAGGED: "Normal WB Tagged",
        0x44: "Normal NC",
        0xFF: "Normal WB",
    }
    if attr in special:
        return special[attr]
    outer, inner = attr >> 4, attr & 0xF
    if outer == 0 or inner == 0:
        return f"reserved ({attr:#04x})"
    if outer == inner:
        return f"Normal {_nibble(inner)}"
    return f"Normal inner {_nibble(inner)} outer {_nibble(outer)}"


def reported_shareability(attr: int, sh: int) -> int:
    """PAR_EL1.SH: Device and Normal Non-cacheable memory are Outer Shareable (D8.6.2)."""
    return OUTER_SHAREABLE if is_device(attr) or attr in (NORMAL_NC, 0x40) else sh


def stage2_memory(memattr: int, fwb: bool = False) -> int:
    """The MAIR encoding that stage 2 MemAttr[3:0] gives to Normal Write-Back memory (D8.6.6).

    What stage 1 has beyond that is in `combine_memory`. Reserved encodings yield `RESERVED`.
    """
    return combine_memory(NORMAL_WB, memattr, fwb)


def stage2_memory_text(memattr: int, fwb: bool = False) -> str:
    """What stage 2 MemAttr[3:0] says by itself; with FEAT_S2FWB it may depend on stage 1."""
    if memattr & 3 == 0 and (memattr & 4 if fwb else memattr):
        return f"reserved (MemAttr {memattr:#06b})"
    if not fwb or not memattr & 4:
        return memory_text(stage2_memory(memattr, fwb))
    return {1: "Normal NC (Device as stage 1)", 2: "Normal WB forced", 3: "as stage 1"}[memattr & 3]


def _combine_nibble(s1: int, s2: int) -> int:
    """The weaker cacheability of two nibbles; hints and Transient are those of stage 1
    (AArch64.S2CombineS1AttrHints)."""
    if s1 == 0b0100 or s2 == 0b0100:
        return 0b0100
    return s1 if s2 & 0b0100 else s1 & ~0b0100


def combine_memory(s1: int, memattr: int, fwb: bool = False) -> int:
    """The MAIR encoding of stage 1 type *s1* under stage 2 MemAttr[3:0] (D8.6.6).

    With *fwb* (FEAT_S2FWB and HCR_EL2.FWB): MemAttr 0bx110 forces Write-Back, 0bx111 keeps stage
    1, 0bx101 forces Non-cacheable unless stage 1 is Device, 0bx0dd is Device. Tagged memory stays
    Tagged where the result is Write-Back RW-allocate (AArch64.S2MemTagType).
    """
    plain = NORMAL_WB if s1 == TAGGED else s1
    attr = _forced(plain, memattr) if fwb else _combined(plain, memattr)
    return TAGGED if s1 == TAGGED and attr == NORMAL_WB else attr


def _combined(s1: int, memattr: int) -> int:
    """AArch64.S2CombineS1MemAttrs: MemAttr is 0b00dd for Device, else outer and inner cacheability
    (01 Non-cacheable, 10 Write-Through, 11 Write-Back)."""
    if memattr < 4:
        return _device(s1, memattr)
    if not memattr & 3:
        return RESERVED
    if is_device(s1):
        return s1
    outer, inner = _NIBBLE[memattr >> 2], _NIBBLE[memattr & 3]
    return _combine_nibble(s1 >> 4, outer) << 4 | _combine_nibble(s1 & 0xF, inner)


def _device(s1: int, dd: int) -> int:
    """Device of stage 2; where stage 1 is Device too, the one with fewer capabilities."""
    return min(s1, dd << 2) if is_device(s1) else dd << 2


def _forced(s1: int, memattr: int) -> int:
    """AArch64.S2ApplyFWBMemAttrs; MemAttr[3] is RES0."""
    if not memattr & 0b0100:
        return _device(s1, memattr & 3)
    if memattr & 3 == 0b10:
        if is_device(s1):
            return NORMAL_WB
        return _write_back(s1 >> 4) << 4 | _write_back(s1 & 0xF)
    return s1 if memattr & 3 == 0b11 or is_device(s1) else NORMAL_NC


def _write_back(nibble: int) -> int:
    """Write-Back; hints and Transient of a cacheable stage 1, else RW-allocate."""
    return 0b1111 if nibble in (0, 0b0100) else nibble | 0b0100


def combine_shareability(s1: int, s2: int) -> int:
    """The wider of two shareability domains (D8.6.6): OSH, then ISH, then NSH."""
    for sh in (OUTER_SHAREABLE, INNER_SHAREABLE):
        if sh in (s1, s2):
            return sh
    return NON_SHAREABLE


# Access permissions: privileged (ELx) and unprivileged (EL0) read, write, execute.
PR, PW, PX, UR, UW, UX = 1, 2, 4, 8, 16, 32


@cache
def stage1_permissions(
    ap: int, uxn: int, pxn: int, aptable: int, uxntable: int, pxntable: int, wxn: bool, el0: bool
) -> int:
    """Permissions of a stage 1 leaf, D8.4.1: *ap* is AP[2:1], *aptable* APTable[1:0].

    *el0* tells a regime with EL0 (EL1&0, EL2&0). In the others AP[1] and APTable[0] are ignored
    and *uxn* is XN. Writable at EL0 means never executable at EL1 (R_RGJBL); WXN makes each
    writable region execute-never (R_RMKTY).
    """
    if not el0:
        write = not ap & 2 and not aptable & 2
        execute = not (uxn or uxntable or (wxn and write))
        return PR | (PW if write else 0) | (PX if execute else 0)
    write = not ap & 2 and not aptable & 2
    user = bool(ap & 1) and not aptable & 1
    mask = PR | (PW if write else 0)
    if user:
        mask |= UR | (UW if write else 0)
    if not (uxn or uxntable or (wxn and mask & UW)):
        mask |= UX
    if not (pxn or pxntable or mask & UW or (wxn and mask & PW)):
        mask |= PX
    return mask


@cache
def stage2_permissions(s2ap: int, xn: int, xnx: bool) -> int:
    """Permissions of a stage 2 leaf, D8.4.2: *s2ap* is S2AP[1:0], *xn* XN[1:0] (bits 54:53).

    With FEAT_XNX (*xnx*): 0b00 executable at EL1 and EL0, 0b01 at EL0 only, 0b10 never, 0b11 at
    EL1 only. Without it bit 53 is RES0 and XN is bit 54.
    """
    mask = (PR | UR if s2ap & 1 else 0) | (PW | UW if s2ap & 2 else 0)
    if not xnx:
        return mask if xn & 2 else mask | PX | UX
    return mask | (PX | UX, UX, 0, PX)[xn]


def permission_text(mask: int, el0: bool = True) -> str:
    """``rwx`` of the privileged level, then of EL0 where the regime has it: ``rw-/r-x``."""

    def three(read: int, write: int, execute: int) -> str:
        return (
            ("r" if mask & read else "-")
            + ("w" if mask & write else "-")
            + ("x" if mask & execute else "-")
        )

    return three(PR, PW, PX) + ("/" + three(UR, UW, UX) if el0 else "")

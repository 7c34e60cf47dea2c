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
    "stage2_permissions",
]

DEVICE_NGNRNE = 0x00
NORMAL_NC = 0x44
NORMAL_WB = 0xFF

NON_SHAREABLE, OUTER_SHAREABLE, INNER_SHAREABLE = 0b00, 0b10, 0b11
SHAREABILITY = {0b00: "NSH", 0b01: "reserved", 0b10: "OSH", 0b11: "ISH"}

_DEVICE = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")
# MAIR nibble (outer 7:4, inner 3:0) of Normal memory: policy, then R and W allocation hints.
_POLICY = {0b00: "WT-transient", 0b01: "WB-transient", 0b10: "WT", 0b11: "WB"}


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
        0xF0: "Normal WB Tagged",
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


def stage2_memory(memattr: int) -> int:
    """The MAIR encoding of stage 2 MemAttr[3:0] without FEAT_S2FWB (D8.6.6).

    0b00dd is Device; otherwise MemAttr[3:2] is the outer and MemAttr[1:0] the inner cacheability.
    """
    if memattr >> 2 == 0:
        return (memattr & 3) << 2
    nibble = (0b0000, 0b0100, 0b1011, 0b1111)
    return nibble[memattr >> 2] << 4 | nibble[memattr & 3]


def _combine_nibble(s1: int, s2: int) -> int:
    """The weaker cacheability of two nibbles; allocation hints are those of stage 1 (R_LPSLB)."""
    if s1 == 0b0100 or s2 == 0b0100:
        return 0b0100
    hints = s1 & 3
    if s1 & 0b1000 == 0:  # stage 1 is Transient
        return s1 if s2 & 0b0100 else s1 & ~0b0100
    write_through = s1 >> 2 == 0b10 or s2 >> 2 == 0b10
    return (0b1000 if write_through else 0b1100) | hints


def combine_memory(s1: int, memattr: int, fwb: bool = False) -> int:
    """The MAIR encoding of stage 1 type *s1* under stage 2 MemAttr[3:0] (D8.6.6).

    With *fwb* (FEAT_S2FWB and HCR_EL2.FWB): MemAttr 0b0110 forces Write-Back, 0b0111 keeps stage
    1, 0b0101 forces Non-cacheable unless stage 1 is Device, 0b00dd is Device.
    """
    if fwb and memattr & 0b0100:
        if memattr & 3 == 0b10:
            return _force_write_back(s1)
        if memattr & 3 == 0b11 or is_device(s1):
            return s1
        return NORMAL_NC
    s2 = stage2_memory(memattr)
    if is_device(s1) or is_device(s2):
        devices = [attr for attr in (s1, s2) if is_device(attr)]
        return min(devices)
    if s1 == 0xF0:
        s1 = NORMAL_WB
    return _combine_nibble(s1 >> 4, s2 >> 4) << 4 | _combine_nibble(s1 & 0xF, s2 & 0xF)


def _force_write_back(s1: int) -> int:
    """Normal Write-Back; allocation hints of stage 1 where it has them, else RW-allocate."""
    if is_device(s1):
        return NORMAL_WB

    def nibble(value: int) -> int:
        return 0b1111 if value == 0b0100 else value & 3 | 0b1100

    return nibble(s1 >> 4) << 4 | nibble(s1 & 0xF)


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

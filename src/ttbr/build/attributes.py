"""Leaf attributes as a person says them, and as descriptor bits of each kind of regime.

Three kinds of regime say different things: stage 1 with EL0 (EL1&0, EL2&0: AP[2:1], UXN, PXN, nG),
stage 1 without EL0 (EL2, EL3: AP[1] is RES1, one XN bit) and stage 2 (S2AP, XN[1:0], MemAttr).
`encode` refuses what the regime cannot say. Sources: Arm ARM D8.3 (descriptors), D8.4
(permissions), D8.6 (memory attributes).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from ttbr.arch.attributes import (
    PR,
    PW,
    PX,
    SHAREABILITY,
    UR,
    UW,
    UX,
    memory_text,
    permission_text,
    stage1_permissions,
    stage2_memory,
    stage2_permissions,
)
from ttbr.arch.geometry import LAST_LEVEL
from ttbr.arch.regime import WalkParams
from ttbr.build.mair import Mair
from ttbr.errors import InvalidError

__all__ = [
    "DEVICE",
    "HYP_DATA",
    "HYP_DEVICE",
    "HYP_RODATA",
    "HYP_TEXT",
    "IDMAP",
    "KERNEL_DATA",
    "KERNEL_RODATA",
    "KERNEL_TEXT",
    "MEMORY",
    "STAGE2_DEVICE",
    "STAGE2_RAM",
    "Attributes",
    "attributes_from",
    "decode",
    "describe",
    "encode",
]

# Name -> MAIR_ELx byte.
MEMORY = {
    "normal": 0xFF,
    "normal-nc": 0x44,
    "normal-wt": 0xBB,
    "normal-tagged": 0xF0,
    "device-nGnRnE": 0x00,
    "device-nGnRE": 0x04,
    "device-nGRE": 0x08,
    "device-GRE": 0x0C,
}
_NAMES = {byte: name for name, byte in MEMORY.items()}
_SH = {name: value for value, name in SHAREABILITY.items() if name != "reserved"}
_PRIVILEGED = {"r": PR, "w": PW, "x": PX}
_USER = {"r": UR, "w": UW, "x": UX}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a leaf says besides its output address.

    `memory` is a name of `MEMORY` or a MAIR byte as ``0xNN``. `access` and `user` are the letters
    of ``rwx`` for the regime's own exception level and for EL0, and are kept as ``rw-``; `user` is
    None for no EL0 access at stage 1 and for the same as `access` at stage 2. `contiguous` lets
    the builder set the Contiguous bit where a group is complete. `largest` is the size in bytes of
    the largest leaf allowed (None: what the granule has). `software` is bits 58:55; `dbm` is bit 51
    as it is. Raises `InvalidError` for a value that no regime knows.
    """

    memory: str = "normal"
    access: str = "rw-"
    user: str | None = None
    shareability: str = "ISH"
    not_global: bool = False
    accessed: bool = True
    contiguous: bool = False
    largest: int | None = None
    software: int = 0
    guarded: bool = False
    dbm: bool = False
    non_secure: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", _letters(self.access, "access"))
        if self.user is not None:
            object.__setattr__(self, "user", _letters(self.user, "user"))
        if self.shareability not in _SH:
            raise InvalidError(f"shareability {self.shareability!r}: must be {', '.join(_SH)}")
        if not 0 <= self.software < 16:
            raise InvalidError(f"software {self.software:#x} does not fit in bits 58:55")
        if self.largest is not None and self.largest < 1:
            raise InvalidError(f"largest leaf {self.largest:#x} must be positive")
        _memory_byte(self.memory)

    @property
    def memory_byte(self) -> int:
        """The MAIR_ELx encoding of `memory`."""
        return _memory_byte(self.memory)

    def replace(self, **changes: object) -> "Attributes":
        """The same attributes but for *changes*."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _letters(text: str, field: str) -> str:
    """*text* as three characters, each its letter or a dash."""
    wanted = [c for c in text if c != "-"]
    if set(wanted) - set("rwx") or len(wanted) != len(set(wanted)):
        raise InvalidError(f"{field} {text!r}: must be letters of rwx")
    return "".join(c if c in wanted else "-" for c in "rwx")


def _memory_byte(memory: str) -> int:
    if memory in MEMORY:
        return MEMORY[memory]
    try:
        byte = int(memory, 16) if memory.startswith("0x") else -1
    except ValueError:
        byte = -1
    if not 0 <= byte <= 0xFF:
        raise InvalidError(f"memory {memory!r}: must be {', '.join(MEMORY)} or 0xNN")
    if memory_text(byte).startswith("reserved"):
        raise InvalidError(f"memory {memory}: the MAIR encoding is reserved")
    return byte


# Linux, arch/arm64/include/asm/pgtable-prot.h: PAGE_KERNEL_ROX, _RO, PAGE_KERNEL,
# PROT_DEVICE_nGnRE; PAGE_HYP_EXEC, _RO, PAGE_HYP, PAGE_HYP_DEVICE; PAGE_S2.
KERNEL_TEXT = Attributes(access="rx")
KERNEL_RODATA = Attributes(access="r")
KERNEL_DATA = Attributes(access="rw")
DEVICE = Attributes("device-nGnRE", "rw")
IDMAP = Attributes(access="rx")
HYP_TEXT = Attributes(access="rx")
HYP_RODATA = Attributes(access="r")
HYP_DATA = Attributes(access="rw")
HYP_DEVICE = Attributes("device-nGnRE", "rw")
STAGE2_RAM = Attributes(access="rwx")
STAGE2_DEVICE = Attributes("device-nGnRE", "rw")


def wanted_permissions(attributes: Attributes, stage: int) -> int:
    """The permission mask (`PR` to `UX`) that *attributes* ask for at *stage*."""
    user = attributes.user
    if user is None:
        user = attributes.access if stage == 2 else "---"
    mask = 0
    for letter in "rwx":
        mask |= _PRIVILEGED[letter] if letter in attributes.access else 0
        mask |= _USER[letter] if letter in user else 0
    return mask


def encode(attributes: Attributes, p: WalkParams, mair: Mair, level: int = LAST_LEVEL) -> int:
    """A leaf descriptor at *level* with output address 0, for the regime of *p*.

    The Contiguous bit is not set: it belongs to a place, not to attributes. Raises `InvalidError`
    for what the regime cannot say. *mair* gives the index of a memory type at stage 1.
    """
    common = attributes.software << 55 | attributes.dbm << 51 | attributes.accessed << 10
    sh = _SH[attributes.shareability]
    if p.sh is None:
        common |= sh << 8
    elif sh != p.sh:
        raise InvalidError(
            f"shareability {attributes.shareability}: {p.name} has DS=1, which takes "
            f"{SHAREABILITY[p.sh]} from the TCR for all leaves"
        )
    kind = 0b11 if level == LAST_LEVEL else 0b01
    return common | (_stage2 if p.stage == 2 else _stage1)(attributes, p, mair) | kind


def _refuse_bits(p: WalkParams, **said: bool) -> None:
    for field, value in said.items():
        if value:
            raise InvalidError(f"{field}: the descriptors of {p.name} have no such bit")


def _stage1(attributes: Attributes, p: WalkParams, mair: Mair) -> int:
    """AttrIndx, NS, AP, nG, GP, PXN and UXN (XN) of stage 1, D8.3."""
    _refuse_bits(p, not_global=attributes.not_global and not p.el0)
    _refuse_bits(p, non_secure=attributes.non_secure and not p.secure)
    wanted = wanted_permissions(attributes, 1)
    read_only = 0 if wanted & PW else 2
    if p.el0:
        ap = read_only | (1 if wanted & UR else 0)
        xn = (0 if wanted & UX else 2) | (0 if wanted & PX else 1)
    else:
        ap, xn = read_only | 1, 0 if wanted & PX else 2
    got = stage1_permissions(ap, xn >> 1, xn & 1, 0, 0, 0, p.wxn, p.el0)
    _refuse_permissions(p, wanted, got)
    index = mair.index(attributes.memory_byte)
    return (
        xn << 53
        | attributes.guarded << 50
        | attributes.not_global << 11
        | ap << 6
        | attributes.non_secure << 5
        | index << 2
    )


def _stage2(attributes: Attributes, p: WalkParams, mair: Mair) -> int:
    """XN, S2AP and MemAttr of stage 2, D8.3."""
    a = attributes
    _refuse_bits(p, not_global=a.not_global, guarded=a.guarded, non_secure=a.non_secure)
    wanted = wanted_permissions(attributes, 2)
    s2ap = (1 if wanted & PR else 0) | (2 if wanted & PW else 0)
    xn = {0: 2, PX: 3, UX: 1, PX | UX: 0}[wanted & (PX | UX)]
    if not p.xnx:
        xn &= 2
    _refuse_permissions(p, wanted, stage2_permissions(s2ap, xn, p.xnx))
    return xn << 53 | s2ap << 6 | _memattr(attributes, p) << 2


def _refuse_permissions(p: WalkParams, wanted: int, got: int) -> None:
    if wanted != got:
        el0 = p.el0 or p.stage == 2
        said = permission_text(wanted, el0 or wanted >= UR)
        raise InvalidError(
            f"access {said}: {p.name} cannot say it; the nearest is {permission_text(got, el0)}"
        )


# Stage 2 MemAttr[3:0] -> MAIR byte, D8.6.6; with FEAT_S2FWB and HCR_EL2.FWB=1 in the second.
_MEMATTR = {m: stage2_memory(m) for m in range(16) if m < 4 or m & 3}
_MEMATTR_FWB = {**{m: stage2_memory(m) for m in range(4)}, 0b0101: 0x44, 0b0110: 0xFF}


def _memattr(attributes: Attributes, p: WalkParams) -> int:
    byte = attributes.memory_byte
    for memattr, value in (_MEMATTR_FWB if p.fwb else _MEMATTR).items():
        if value == byte:
            return memattr
    fwb = " with HCR_EL2.FWB=1" if p.fwb else ""
    raise InvalidError(f"memory {attributes.memory}: stage 2 MemAttr has no such type{fwb}")


def decode(descriptor: int, p: WalkParams) -> Attributes:
    """The attributes of a leaf *descriptor* of *p*; `largest` is None, `contiguous` its bit.

    Raises `InvalidError` for reserved shareability or MemAttr.
    """
    d = descriptor
    sh = d >> 8 & 3 if p.sh is None else p.sh
    if sh == 0b01:
        raise InvalidError(f"descriptor {d:#x}: SH=0b01 is reserved")
    if p.stage == 2:
        mask = stage2_permissions(d >> 6 & 3, d >> 53 & 3, p.xnx)
        byte = (_MEMATTR_FWB if p.fwb else _MEMATTR).get(d >> 2 & 0xF)
        if byte is None:
            raise InvalidError(f"descriptor {d:#x}: MemAttr={d >> 2 & 0xF:#06b} is reserved")
    else:
        mask = stage1_permissions(d >> 6 & 3, d >> 54 & 1, d >> 53 & 1, 0, 0, 0, p.wxn, p.el0)
        byte = p.mair >> (d >> 2 & 7) * 8 & 0xFF
    access, user = _texts(mask)
    same = access if p.stage == 2 else "---"
    return Attributes(
        _NAMES.get(byte, f"{byte:#04x}"),
        access,
        None if user == same else user,
        SHAREABILITY[sh],
        not_global=p.stage == 1 and p.el0 and bool(d >> 11 & 1),
        accessed=bool(d >> 10 & 1),
        contiguous=bool(d >> 52 & 1),
        software=d >> 55 & 0xF,
        guarded=p.stage == 1 and bool(d >> 50 & 1),
        dbm=bool(d >> 51 & 1),
        non_secure=p.stage == 1 and p.secure and bool(d >> 5 & 1),
    )


def _texts(mask: int) -> tuple[str, str]:
    access = "".join(c if mask & bit else "-" for c, bit in _PRIVILEGED.items())
    return access, "".join(c if mask & bit else "-" for c, bit in _USER.items())


_TYPES = {field.name: field.type for field in fields(Attributes)}


def attributes_from(keys: Mapping[str, object]) -> Attributes:
    """Attributes from the keys of a region file; `InvalidError` for an unknown key or type."""
    for key, value in keys.items():
        if key not in _TYPES:
            raise InvalidError(f"{key!r} is not an attribute; known: {', '.join(_TYPES)}")
        kind = type(getattr(_DEFAULT, key)) if key not in ("user", "largest") else None
        kind = kind or (str if key == "user" else int)
        if type(value) is not kind:
            raise InvalidError(f"{key} = {value!r}: must be {_KIND_TEXT[kind]}")
    return Attributes(**keys)  # type: ignore[arg-type]


def describe(attributes: Attributes) -> dict[str, str | int | bool]:
    """The keys of a region file for *attributes*: those that are not the default."""
    return {k: v for k, v in asdict(attributes).items() if v != getattr(_DEFAULT, k)}


_DEFAULT = Attributes()
_KIND_TEXT = {str: "a string", int: "a whole number", bool: "true or false"}

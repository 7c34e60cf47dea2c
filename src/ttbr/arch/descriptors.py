"""Descriptor formats of stage 1 and stage 2: the fields, and where the output address stands.

`FORMATS` holds one row of fields for each kind of descriptor, from bit 63 down, to be held against
the figures of Arm ARM D8.3. `OutputFormat` is the only thing in which the three output address
formats differ. Levels and types are decided in one place, `descriptor_type`.
"""

from ttbr.arch.bits import Field, ones
from ttbr.arch.geometry import LAST_LEVEL, Granule
from ttbr.errors import InvalidError
from ttbr.record import record

__all__ = [
    "BLOCK",
    "FORMATS",
    "INVALID",
    "OA_48",
    "OA_64K_LPA",
    "OA_LPA2",
    "PAGE",
    "RESERVED",
    "TABLE",
    "OutputFormat",
    "decode",
    "descriptor_type",
    "fields_of",
    "output_address",
]

INVALID, RESERVED, TABLE, BLOCK, PAGE = "invalid", "reserved", "table", "block", "page"

AP = {
    0b00: "EL1 read/write, EL0 none",
    0b01: "EL1 and EL0 read/write",
    0b10: "EL1 read-only, EL0 none",
    0b11: "EL1 and EL0 read-only",
}
APTABLE = {
    0b00: "no effect",
    0b01: "no EL0 access below",
    0b10: "no write access below",
    0b11: "no EL0 access and no write access below",
}
S2AP = {0b00: "no access", 0b01: "read-only", 0b10: "write-only", 0b11: "read/write"}
S2XN = {
    0b00: "executable at EL1 and EL0",
    0b01: "executable at EL0 only (FEAT_XNX)",
    0b10: "not executable",
    0b11: "executable at EL1 only (FEAT_XNX)",
}
SH = {0b00: "Non-shareable", 0b10: "Outer Shareable", 0b11: "Inner Shareable"}
YES_NO = {0: "no", 1: "yes"}

_VALID = Field("VALID", 0, 0, "valid", {0: "invalid", 1: "valid"})
_TYPE = Field("TYPE", 1, 1, "table or page, not block")
_SOFTWARE = Field("SW", 58, 55, "for software")
_PBHA = Field("PBHA", 62, 59, "page-based hardware attributes", feature="FEAT_HPDS2")

_STAGE1_UPPER = (
    Field("AMEC", 63, 63, "alternate memory encryption context", feature="FEAT_MEC"),
    _PBHA,
    _SOFTWARE,
    Field("UXN", 54, 54, "EL0 execute-never; XN in a regime without EL0", YES_NO),
    Field("PXN", 53, 53, "privileged execute-never", YES_NO),
    Field("CONT", 52, 52, "one of a contiguous run", YES_NO),
    Field("DBM", 51, 51, "dirty bit modifier", feature="FEAT_HAFDBS"),
    Field("GP", 50, 50, "guarded page", feature="FEAT_BTI"),
)
_STAGE1_LOWER = (
    Field("nG", 11, 11, "not global", YES_NO),
    Field("AF", 10, 10, "access flag", YES_NO),
    Field("SH", 9, 8, "shareability (OA[51:50] with DS=1)", SH, reserved=True),
    Field("AP", 7, 6, "access permissions AP[2:1]", AP),
    Field("NS", 5, 5, "output address in Non-secure space (from Secure state)"),
    Field("AttrIndx", 4, 2, "index into MAIR_ELx"),
)
_STAGE2_UPPER = (
    Field("AMEC", 63, 63, "alternate memory encryption context", feature="FEAT_MEC"),
    _PBHA,
    _SOFTWARE,
    Field("XN", 54, 53, "execute-never XN[1:0]", S2XN),
    Field("CONT", 52, 52, "one of a contiguous run", YES_NO),
    Field("DBM", 51, 51, "dirty bit modifier", feature="FEAT_HAFDBS"),
)
_STAGE2_LOWER = (
    Field("FnXS", 11, 11, "no XS attribute", feature="FEAT_XS"),
    Field("AF", 10, 10, "access flag", YES_NO),
    Field("SH", 9, 8, "shareability (OA[51:50] with DS=1)", SH, reserved=True),
    Field("S2AP", 7, 6, "access permissions S2AP[1:0]", S2AP),
    Field("MemAttr", 5, 2, "stage 2 memory attributes"),
)
_NT = Field("nT", 16, 16, "block translation entry must not be used", feature="FEAT_BBM")

# (stage, type) -> the fields besides the output address, D8.3.1 and D8.3.2.
FORMATS: dict[tuple[int, str], tuple[Field, ...]] = {
    (1, TABLE): (
        Field("NSTable", 63, 63, "tables and output below are Non-secure"),
        Field("APTable", 62, 61, "limit on AP below", APTABLE),
        Field("UXNTable", 60, 60, "no EL0 execution below; XNTable without EL0", YES_NO),
        Field("PXNTable", 59, 59, "no privileged execution below", YES_NO),
        Field("IGNORED", 58, 51, "ignored"),
        Field("AF", 10, 10, "access flag of the table", feature="FEAT_HAFT"),
        _TYPE,
        _VALID,
    ),
    (1, BLOCK): (*_STAGE1_UPPER, _NT, *_STAGE1_LOWER, _TYPE, _VALID),
    (1, PAGE): (*_STAGE1_UPPER, *_STAGE1_LOWER, _TYPE, _VALID),
    (2, TABLE): (
        Field("IGNORED", 58, 51, "ignored"),
        Field("AF", 10, 10, "access flag of the table", feature="FEAT_HAFT"),
        _TYPE,
        _VALID,
    ),
    (2, BLOCK): (*_STAGE2_UPPER, _NT, *_STAGE2_LOWER, _TYPE, _VALID),
    (2, PAGE): (*_STAGE2_UPPER, *_STAGE2_LOWER, _TYPE, _VALID),
}


@record
class OutputFormat:
    """Where a descriptor holds output address bits above bit 47 (D8.3).

    Bits ``high_mask`` of the descriptor, shifted left by `high_shift`, are the top bits of the
    address; bits ``[low_top:page shift]`` stand in place. `wide` formats also have the block
    levels of `Granule.block_levels_52` and the 52-bit TTBR (TTBR[5:2] is the address [51:48]).
    """

    name: str
    low_top: int
    high_mask: int
    high_shift: int
    wide: bool

    @property
    def address_bits(self) -> int:
        """Width of the widest output address."""
        return 52 if self.wide else 48

    def low_mask(self, shift: int) -> int:
        """Mask of the address bits that stand in place, down to bit *shift*."""
        return ones(self.low_top + 1) & ~ones(shift)

    def place(self, address: int) -> int:
        """The descriptor bits that hold *address*; `InvalidError` when it has too many bits."""
        high = address >> self.low_top + 1
        if address < 0 or high >> self.high_mask.bit_count():
            raise InvalidError(f"address {address:#x} does not fit the {self.name} format")
        low = self.high_mask & -self.high_mask
        return address & ones(self.low_top + 1) | high * low


OA_48 = OutputFormat("48-bit", 47, 0, 0, wide=False)
# FEAT_LPA, 64K granule: OA[51:48] in descriptor bits [15:12].
OA_64K_LPA = OutputFormat("64K 52-bit (FEAT_LPA)", 47, 0xF000, 36, wide=True)
# FEAT_LPA2 with DS=1, 4K and 16K: OA[51:50] in descriptor bits [9:8], shareability from TCR.
OA_LPA2 = OutputFormat("52-bit (FEAT_LPA2, DS=1)", 49, 0x300, 42, wide=True)


def output_address(descriptor: int, form: OutputFormat, shift: int) -> int:
    """The output address of a table, block or page descriptor, down to bit *shift*.

    *shift* is the page shift for a table and the level's shift for a leaf: lower address bits of
    a block are RES0 and are ignored (R_HGJBM).
    """
    return descriptor & form.low_mask(shift) | (descriptor & form.high_mask) << form.high_shift


def descriptor_type(descriptor: int, level: int, granule: Granule, wide: bool) -> str:
    """What *descriptor* is at *level*: invalid, reserved (also faults), table, block or page.

    Bit 0 clear is invalid. 0b11 is a table below the last level and a page at it; 0b01 is a block
    where the granule has blocks (*wide* adds the 52-bit block levels) and reserved elsewhere.
    """
    if not descriptor & 1:
        return INVALID
    if level == LAST_LEVEL:
        return PAGE if descriptor & 2 else RESERVED
    if descriptor & 2:
        return TABLE
    return BLOCK if granule.may_be_block(level, wide) else RESERVED


def fields_of(stage: int, kind: str) -> tuple[Field, ...]:
    """The fields of a *kind* descriptor of *stage*; an invalid one has VALID only."""
    return FORMATS.get((stage, kind), (_VALID,))


def decode(
    descriptor: int, level: int, granule: Granule, form: OutputFormat, stage: int = 1
) -> tuple[str, int | None, list[tuple[Field, int]]]:
    """(type, output address or None, fields) of *descriptor* at *level*."""
    if descriptor < 0 or descriptor >> 64:
        raise InvalidError(f"descriptor {descriptor:#x} does not fit in 64 bits")
    kind = descriptor_type(descriptor, level, granule, form.wide)
    address = None
    if kind in (TABLE, BLOCK, PAGE):
        shift = granule.shift if kind == TABLE else granule.level_shift(level)
        address = output_address(descriptor, form, shift)
    fields = fields_of(stage, kind)
    if form is OA_LPA2:  # bits [9:8] are output address, not SH
        fields = tuple(field for field in fields if field.name != "SH")
    return kind, address, [(field, field.get(descriptor)) for field in fields]

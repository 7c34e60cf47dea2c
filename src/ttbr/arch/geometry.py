"""Sizes and shapes of VMSAv8-64 tables: granules, levels, indices, start level, output size.

The rows of `GRANULES` are the whole difference between the three granules; every formula below
works from a row. Sources: Arm ARM D8.2 (translation process), D8.3 (descriptor formats), tables
"Properties of the ... granule" in D8.2.8 to D8.2.10.
"""

from ttbr.errors import InvalidError
from ttbr.record import record

__all__ = [
    "GRANULES",
    "IPA",
    "PA",
    "VA",
    "Granule",
    "granule",
    "level_count",
    "size_text",
    "start_level",
]

TYPE_CHECKING = False  # `typing` costs 12 ms of start-up, see `ttbr.record`
if TYPE_CHECKING:
    from typing import NewType

    VA = NewType("VA", int)
    IPA = NewType("IPA", int)
    PA = NewType("PA", int)
else:
    VA = IPA = PA = int

LAST_LEVEL = 3


@record
class Granule:
    """One translation granule.

    `shift` is log2 of the page size. `block_levels` are the levels, besides the last, that may
    hold a block descriptor; `block_levels_52` with 52-bit output (FEAT_LPA2 with TCR_ELx.DS or
    VTCR_EL2.DS set; FEAT_LPA for the 64K granule). `contiguous` is the number of entries of a
    contiguous run by level (D8.7.1). `tg0` and `tg1` are the encodings of TCR_ELx.TG0 and TG1.
    """

    name: str
    shift: int
    tg0: int
    tg1: int
    block_levels: tuple[int, ...]
    block_levels_52: tuple[int, ...]
    contiguous: dict[int, int]

    def __hash__(self) -> int:
        return self.shift

    @property
    def size(self) -> int:
        """Bytes of a page and of a full table."""
        return 1 << self.shift

    @property
    def stride(self) -> int:
        """Address bits that one full table resolves."""
        return self.shift - 3

    @property
    def entries(self) -> int:
        """Descriptors in a full table."""
        return 1 << (self.shift - 3)

    def level_shift(self, level: int) -> int:
        """log2 of the bytes that one entry at *level* covers (4K: 39, 30, 21, 12 for 0..3)."""
        return self.shift + (LAST_LEVEL - level) * (self.shift - 3)

    def entry_size(self, level: int) -> int:
        """Bytes that one entry at *level* covers."""
        return 1 << self.level_shift(level)

    def index(self, level: int, address: int) -> int:
        """The index of *address* in a full table at *level*."""
        return (address >> self.level_shift(level)) & ((1 << (self.shift - 3)) - 1)

    def may_be_block(self, level: int, wide: bool) -> bool:
        """Whether *level* may hold a block; *wide* is 52-bit output (LPA2 with DS, or LPA)."""
        return level in (self.block_levels_52 if wide else self.block_levels)


# D8.2.8 to D8.2.10 for the block levels; contiguous runs: D8.7.1, table "Contiguous bit".
# With LPA2 the new block levels (4K level 0, 16K level 1) have no contiguous run.
GRANULES: dict[str, Granule] = {
    "4K": Granule("4K", 12, 0b00, 0b10, (1, 2), (0, 1, 2), {1: 16, 2: 16, 3: 16}),
    "16K": Granule("16K", 14, 0b10, 0b01, (2,), (1, 2), {2: 32, 3: 128}),
    "64K": Granule("64K", 16, 0b01, 0b11, (2,), (1, 2), {2: 32, 3: 32}),
}


def granule(name: str) -> Granule:
    """The granule called *name* (``4K``, ``16K``, ``64K``); `InvalidError` for any other."""
    found = GRANULES.get(name.upper().removesuffix("B"))
    if found is None:
        raise InvalidError(f"granule {name!r}: must be 4K, 16K or 64K")
    return found


def level_count(g: Granule, input_bits: int) -> int:
    """How many lookup levels resolve *input_bits* when no tables are concatenated."""
    return -(-(input_bits - g.shift) // g.stride)


def start_level(g: Granule, input_bits: int) -> int:
    """The level at which a stage 1 walk of *input_bits* starts (-1 to 3), D8.2.5."""
    return LAST_LEVEL + 1 - level_count(g, input_bits)


def root_bytes(g: Granule, input_bits: int, level: int) -> int:
    """Bytes of the table (or concatenated tables) at start *level*."""
    return 8 << max(input_bits - g.level_shift(level), 0)


def size_text(size: int) -> str:
    """*size* bytes in the largest unit that divides it: ``4K``, ``512M``, ``1.5G`` is ``1536M``."""
    for unit, shift in (("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size and not size & ((1 << shift) - 1):
            return f"{size >> shift}{unit}"
    return f"{size}B"

"""Kernel versions, and the rules that changed with them: one table a rule, one row an era.

A row says from which version to which one a rule held, and the commit that brought it. Every other
module of this package asks `rule(TABLE, version)`; no version is compared anywhere else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from ttbr.errors import InvalidError, UnsupportedError

__all__ = [
    "BOOT_IDMAP",
    "BootIdmap",
    "FIRST",
    "NEWEST",
    "Coverage",
    "Decision",
    "Era",
    "ExtraReach",
    "HypCheck",
    "HypTables",
    "HypTransform",
    "HypWidth",
    "IdmapArea",
    "KernelVersion",
    "Places",
    "era",
    "known",
    "row",
    "rule",
    "version",
]


@dataclass(frozen=True, slots=True, order=True)
class KernelVersion:
    """A Linux release, ``major.minor``; stable updates do not change the layout rules."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


FIRST = KernelVersion(3, 7)
"""The first release with arch/arm64."""
NEWEST = KernelVersion(7, 0)
"""The last release whose rules are known here."""


def version(text: str) -> KernelVersion:
    """The release that *text* names: ``4.1``, ``v5.15``, ``6.1.176``, ``6.12.107+deb13-arm64``.

    `InvalidError` when it is not a version, `UnsupportedError` outside `FIRST` to `NEWEST`.
    """
    match = re.match(r"v?(\d+)\.(\d+)(?![\d])(?:[.+-].*)?$", text)
    if match is None:
        raise InvalidError(f"kernel version {text!r}: must look like 4.1 or 6.12.107")
    found = KernelVersion(int(match[1]), int(match[2]))
    if found < FIRST:
        raise UnsupportedError(f"kernel version {found}: arm64 entered Linux in {FIRST}")
    if found > NEWEST:
        raise UnsupportedError(f"kernel version {found}: the rules are known up to {NEWEST}")
    return found


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Era(Generic[T]):
    """A rule, the releases that had it (both ends included), and where that is written."""

    first: KernelVersion
    last: KernelVersion
    rule: T
    source: str

    def __contains__(self, release: KernelVersion) -> bool:
        return self.first <= release <= self.last


def row(first: str, last: str, value: T, source: str) -> Era[T]:
    """A row of a table; an empty *last* is `NEWEST`."""
    return Era(version(first), version(last) if last else NEWEST, value, source)


def known(table: Sequence[Era[T]], release: KernelVersion) -> Era[T] | None:
    """The row of *table* that holds for *release*, or None before its first row."""
    for row in table:
        if release in row:
            return row
    return None


def era(table: Sequence[Era[T]], release: KernelVersion) -> Era[T]:
    """The row of *table* that holds for *release*; `UnsupportedError` when there is none."""
    row = known(table, release)
    if row is None:
        raise UnsupportedError(f"kernel version {release}: no rule before {table[0].first}")
    return row


def rule(table: Sequence[Era[T]], release: KernelVersion) -> T:
    """The rule of *table* that holds for *release*."""
    return era(table, release).rule


# (granule, VA_BITS) that Kconfig offers, and since when (ARM64_VA_BITS_*).
SELECTABLE: dict[tuple[str, int], Era[None]] = {
    ("4K", 39): row("3.7", "", None, "ARM64_VA_BITS_39"),
    ("64K", 42): row("3.7", "", None, "ARM64_VA_BITS_42"),
    ("4K", 48): row("3.17", "", None, "e41ceed035dc"),
    ("64K", 48): row("3.17", "", None, "e41ceed035dc"),
    ("16K", 36): row("4.4", "", None, "215399392fe4"),
    ("16K", 47): row("4.4", "", None, "44eaacf1b899"),
    ("16K", 48): row("4.4", "", None, "44eaacf1b899"),
    ("64K", 52): row("5.4", "", None, "b6d00d47e81a"),
    ("4K", 52): row("6.9", "", None, "352b0395b505"),
    ("16K", 52): row("6.9", "", None, "352b0395b505"),
}

# ARM64_PA_BITS_52 by granule.
WIDE_PA: dict[str, Era[None]] = {
    "64K": row("4.16", "", None, "f77d281713d4"),
    "4K": row("6.9", "", None, "352b0395b505"),
    "16K": row("6.9", "", None, "352b0395b505"),
}

# A kernel that runs at EL2 (is_kernel_in_hyp_mode).
VHE = row("4.6", "", None, "asm/virt.h, 4.6")

# KVM, and since when it could be selected with 16K pages.
KVM = row("3.11", "", None, "arch/arm64/kvm, 3.11")
KVM_16K = row("4.7", "", None, "02e0b7600f83")


class Decision(Enum):
    """How idmap_t0sz is found."""

    NONE = "T0SZ is always 64 - VA_BITS"
    IMAGE_PAGE = "leading zeros of the page of _end, if fewer than 64 - VA_BITS"
    TEXT_PAGE = "leading zeros of the page of __idmap_text_end, if fewer than 64 - VA_BITS"
    TEXT_PAGE_MIN = "leading zeros of the page of __idmap_text_end, if fewer than 64 - VA_BITS_MIN"
    IMAGE_OR_MIN = "leading zeros of the page of _end OR (2^VA_BITS_MIN - 1)"
    ALWAYS_48 = "T0SZ is always 16"


IDMAP_T0SZ: tuple[Era[Decision], ...] = (
    row("3.7", "4.0", Decision.NONE, "before dd006da21646"),
    row("4.1", "4.1", Decision.IMAGE_PAGE, "dd006da21646"),
    row("4.2", "5.11", Decision.TEXT_PAGE, "5dfe9d7d23c2"),
    row("5.12", "5.19", Decision.TEXT_PAGE_MIN, "7ba8f2b2d652"),
    row("6.0", "6.8", Decision.IMAGE_OR_MIN, "head.S, 6.1"),
    row("6.9", "", Decision.ALWAYS_48, "arch/arm64/mm/mmu.c, 6.12"),
)


class Coverage(Enum):
    """What the ID map maps."""

    IMAGE = "the whole kernel image"
    TEXT = "the page of .idmap.text"
    IMAGE_THEN_TEXT = "at boot the whole kernel image, afterwards the page of .idmap.text"


IDMAP_COVERS: tuple[Era[Coverage], ...] = (
    row("3.7", "4.1", Coverage.IMAGE, "dd006da21646"),
    row("4.2", "5.19", Coverage.TEXT, "5dfe9d7d23c2"),
    row("6.0", "", Coverage.IMAGE_THEN_TEXT, "arch/arm64/kernel/head.S, 6.1"),
)


class BootIdmap(Enum):
    """With which permissions, and in which leaves, the boot code makes the ID map."""

    ALL_WRITABLE = "one range, writable and executable"
    BLOCKS = "code, the blocks of init_pg_dir writable, and the device tree behind the image"
    SEGMENTS = "code and data by segment"


BOOT_IDMAP: tuple[Era[BootIdmap], ...] = (
    row("3.7", "5.19", BootIdmap.ALL_WRITABLE, "dd006da21646"),
    row("6.0", "6.8", BootIdmap.BLOCKS, "arch/arm64/kernel/head.S, 6.1"),
    row("6.9", "", BootIdmap.SEGMENTS, "arch/arm64/kernel/pi/map_range.c, 6.12"),
)


class IdmapArea(Enum):
    """How many pages the image reserves for the ID map's tables."""

    SWAPPER = "as many as swapper_pg_dir"
    THREE = "three"
    WORST_CASE = "one for each level of the largest PA, less one with 4K sections"
    SPANS = "one a level and one for each boundary that image and device tree may cross"
    SPANS_48 = "the same for the image alone, from the root of a 48-bit ID map"


IDMAP_AREA: tuple[Era[IdmapArea], ...] = (
    row("3.7", "4.0", IdmapArea.SWAPPER, "asm/page.h, 3.18"),
    row("4.1", "4.3", IdmapArea.THREE, "dd006da21646"),
    row("4.4", "5.19", IdmapArea.WORST_CASE, "asm/kernel-pgtable.h, 4.4"),
    row("6.0", "6.8", IdmapArea.SPANS, "asm/kernel-pgtable.h, 6.1"),
    row("6.9", "", IdmapArea.SPANS_48, "asm/kernel-pgtable.h, 6.12"),
)

# Upper-level entries that the boot code writes for one range: one, or start to end. With one, the
# last index of a range that crosses the reach of an upper entry is below its first, and only the
# first leaf is written.
ONE_ENTRY_A_LEVEL: tuple[Era[bool], ...] = (
    row("3.7", "4.15", True, "create_pgd_entry"),
    row("4.16", "", False, "0370b31e4845"),
)

# Whether map_memory takes the end of a range as included (one leaf too many).
END_INCLUSIVE: tuple[Era[bool], ...] = (
    row("3.7", "4.15", False, "create_block_map"),
    row("4.16", "5.14", True, "0370b31e4845"),
    row("5.15", "", False, "90268574a3e8"),
)


class ExtraReach(Enum):
    """How far EXTRA_PTRS, the entries of the extra level, reaches."""

    BITS_48 = "1 << (48 - EXTRA_SHIFT)"
    PA_BITS = "1 << (PHYS_MASK_SHIFT - EXTRA_SHIFT)"
    FULL_TABLE = "a full table"


EXTRA_REACH: tuple[Era[ExtraReach], ...] = (
    row("4.1", "4.15", ExtraReach.BITS_48, "dd006da21646"),
    row("4.16", "5.19", ExtraReach.PA_BITS, "fa2a8445b1d3"),
    row("6.0", "", ExtraReach.FULL_TABLE, "arch/arm64/kernel/head.S, 6.1"),
)


class Places(Enum):
    """Which set of formulas `ttbr.linux.layout` applies."""

    IMAGE_IN_LINEAR_318 = "3.18"
    IMAGE_IN_LINEAR = "4.0"
    IMAGE_IN_LINEAR_45 = "4.5"
    IMAGE_IN_VMALLOC = "4.6"
    VMEMMAP_BELOW_LINEAR = "4.7"
    FLIPPED = "5.4"
    VMEMMAP_TOP = "5.11"
    FIXMAP_TOP = "6.9"


PLACES: tuple[Era[Places], ...] = (
    row("3.7", "3.19", Places.IMAGE_IN_LINEAR_318, "asm/memory.h, 3.18"),
    row("4.0", "4.4", Places.IMAGE_IN_LINEAR, "aa03c428e678"),
    row("4.5", "4.5", Places.IMAGE_IN_LINEAR_45, "dfd55ad85e4a"),
    row("4.6", "4.6", Places.IMAGE_IN_VMALLOC, "f9040773b7bb"),
    row("4.7", "5.3", Places.VMEMMAP_BELOW_LINEAR, "3e1907d5bf5a"),
    row("5.4", "5.10", Places.FLIPPED, "14c127c957c1"),
    row("5.11", "6.8", Places.VMEMMAP_TOP, "8c96400d6a39"),
    row("6.9", "", Places.FIXMAP_TOP, "32697ff38287"),
)

# log2 of the modules region.
MODULES_SHIFT: tuple[Era[int], ...] = (
    row("3.7", "4.5", 26, "asm/memory.h, 3.18"),
    row("4.6", "6.4", 27, "f9040773b7bb"),
    row("6.5", "", 31, "3e35d303ab7d"),
)

# TEXT_OFFSET: where the image starts above its 2 MiB boundary.
TEXT_OFFSET: tuple[Era[int], ...] = (
    row("3.7", "5.7", 0x80000, "arch/arm64/Makefile"),
    row("5.8", "", 0, "cfa7ede20f13"),
)

# SECTION_SIZE_BITS with 4K and 16K pages, and with 64K pages.
SECTION_BITS: tuple[Era[tuple[int, int]], ...] = (
    row("3.7", "5.11", (30, 30), "asm/sparsemem.h"),
    row("5.12", "", (27, 29), "f0b13ee23241"),
)


class LinearMap52(Enum):
    """How large the linear map is when the kernel runs with 52-bit VAs."""

    HALF = "half of the 52-bit space"
    TO_PAGE_END = "up to -2^(VA_BITS_MIN - 1)"
    CAPPED = "up to -2^(VA_BITS_MIN - 1), but 2^51 when KVM runs nVHE"


LINEAR_52: tuple[Era[LinearMap52], ...] = (
    row("3.7", "5.10", LinearMap52.HALF, "arch/arm64/mm/init.c, 5.10"),
    row("5.11", "5.14", LinearMap52.TO_PAGE_END, "f4693c2716b3"),
    row("5.15", "", LinearMap52.CAPPED, "88053ec8cb1b"),
)

# The first frame that vmemmap has a page structure for: that of physical address 0, or of memstart.
VMEMMAP_FROM_ZERO: tuple[Era[bool], ...] = (
    row("3.7", "4.4", True, "asm/pgtable.h, 3.18"),
    row("4.5", "", False, "dfd55ad85e4a"),
)

# Whether memory above 2^48 is dropped on a CPU without FEAT_LPA2, with 4K and 16K pages.
LPA2_CLIPPED: tuple[Era[bool], ...] = (
    row("3.7", "6.13", False, "arch/arm64/mm/init.c, 6.12"),
    row("6.14", "", True, "bf74bb73cd87"),
)

# Whether memory is clipped around the kernel (memstart chosen) or starts at the image.
MEMSTART_CHOSEN: tuple[Era[bool], ...] = (
    row("3.7", "4.5", False, "PHYS_OFFSET follows the image"),
    row("4.6", "", True, "a7f8de168ace"),
)


# --- HYP -------------------------------------------------------------------------------------


class HypTables(Enum):
    """Which tables EL2 runs on when there is no VHE."""

    BOOT_AND_RUNTIME = "boot_hyp_pgd and hyp_pgd, both with the trampoline page"
    MERGED = "as before; merged_hyp_pgd over both when the ID map is extended"
    SINGLE = "hyp_pgd only; merged_hyp_pgd over it and boot_hyp_pgd with an extra level"
    GENERIC = "one table of hyp_va_bits"


HYP_TABLES: tuple[Era[HypTables], ...] = (
    row("3.11", "4.0", HypTables.BOOT_AND_RUNTIME, "arch/arm64/kvm, 3.18"),
    row("4.1", "4.7", HypTables.MERGED, "e4c5a6851058"),
    row("4.8", "5.9", HypTables.SINGLE, "12fda8123d0c"),
    row("5.10", "", HypTables.GENERIC, "arch/arm64/kvm/hyp/pgtable.c, 5.10"),
)


class HypTransform(Enum):
    """kern_hyp_va: how a kernel linear address becomes a HYP address."""

    MASK = "k & (2^V - 1)"
    MASK_OR_LOW = "k & (2^V - 1), and & (2^(V-1) - 1) when the ID map is in the upper half"
    OLD_TAG = "tag above lsb, but only a mask when lsb is V - 1"
    TAG = "tag above lsb"
    TAG_KASLR = "tag above lsb, random only with RANDOMIZE_BASE"


HYP_VA: tuple[Era[HypTransform], ...] = (
    row("3.11", "4.7", HypTransform.MASK, "asm/kvm_mmu.h, 3.18"),
    row("4.8", "4.16", HypTransform.MASK_OR_LOW, "e537ecd7efac"),
    row("4.17", "5.5", HypTransform.OLD_TAG, "ed57cac83e05"),
    row("5.6", "5.8", HypTransform.TAG, "f5523423deda"),
    row("5.9", "", HypTransform.TAG_KASLR, "arch/arm64/kvm/va_layout.c, 5.9"),
)


# Whether kvm_compute_layout works with hyp_va_bits, or with vabits_actual (VA_BITS before 5.4,
# when the two were the same).
HYP_LAYOUT_WIDE: tuple[Era[bool], ...] = (
    row("3.11", "6.19", False, "arch/arm64/kvm/va_layout.c, 4.17"),
    row("7.0", "", True, "8e8eb10c107e"),
)


class HypWidth(Enum):
    """The input size of the HYP tables, and so TCR_EL2.T0SZ."""

    IDMAP = "64 - idmap_t0sz"
    IDMAP_OR_ACTUAL = "max(64 - idmap_t0sz, vabits_actual)"
    AT_LEAST_48 = "max(48, vabits_actual)"


HYP_WIDTH: tuple[Era[HypWidth], ...] = (
    row("3.11", "6.2", HypWidth.IDMAP, "e4c5a6851058"),
    row("6.3", "6.8", HypWidth.IDMAP_OR_ACTUAL, "579d7ebe90a3"),
    row("6.9", "", HypWidth.AT_LEAST_48, "arch/arm64/kvm/mmu.c, 6.12"),
)


class HypCheck(Enum):
    """The last kernel address whose HYP address the ID map is compared with at start."""

    NONE = "no check: the tables are separate"
    ALL = "~0"
    HIGH_MEMORY = "high_memory - 1"


HYP_CHECK: tuple[Era[HypCheck], ...] = (
    row("3.11", "4.7", HypCheck.NONE, "arch/arm/kvm/mmu.c, 3.18"),
    row("4.8", "4.16", HypCheck.ALL, "arch/arm/kvm/mmu.c, 4.8"),
    row("4.17", "", HypCheck.HIGH_MEMORY, "arch/arm/kvm/mmu.c, 4.18"),
)

# Whether MMIO and vectors have a range of their own below the ID map, or use kern_hyp_va.
HYP_PRIVATE: tuple[Era[bool], ...] = (
    row("3.11", "4.16", False, "kern_hyp_va of the vmalloc address"),
    row("4.17", "", True, "e3f019b37b58"),
)

# Whether hyp_idmap_start and _end are rounded to pages.
HYP_IDMAP_ROUNDED: tuple[Era[bool], ...] = (
    row("3.11", "4.16", False, "arch/arm/kvm/mmu.c, 4.16"),
    row("4.17", "", True, "Fix idmap size and alignment, 4.17"),
)

# The output size that TCR_EL2.PS says: a number of bits, or 0 for ID_AA64MMFR0_EL1.PARange.
HYP_PS: tuple[Era[int], ...] = (
    row("3.11", "4.4", 40, "TCR_EL2_PS_40B"),
    row("4.5", "", 0, "c0ef6326cac8"),
)

# Whether teardown finds the ID map's root entry with PTRS_PER_PGD, too few with 52-bit PAs.
UNMAP_NARROW: tuple[Era[bool], ...] = (
    row("3.11", "4.16", True, "arch/arm/kvm/mmu.c, 4.16"),
    row("4.17", "", False, "3ddd4556e059"),
)

# Whether T0SZ is only written when the kernel's own ID map is extended, or whenever it differs.
T0SZ_BY_FLAG: tuple[Era[bool], ...] = (
    row("3.7", "5.11", True, "dd006da21646"),
    row("5.12", "", False, "1401bef703a4"),
)

PKVM: tuple[Era[None], ...] = (row("5.13", "", None, "arch/arm64/kvm/hyp/nvhe/setup.c"),)

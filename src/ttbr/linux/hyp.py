"""The EL2 (HYP) address space without VHE: kern_hyp_va, its width, and whether it meets the ID map.

EL2 has one TTBR and one T0SZ, so the kernel's linear map (moved down to HYP addresses) and the
ID map of the HYP init code must be apart under the same T0SZ, or in tables of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ttbr.boards.board import Board
from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import (
    HYP_CHECK,
    HYP_IDMAP_ROUNDED,
    HYP_LAYOUT_WIDE,
    HYP_TABLES,
    HYP_VA,
    HYP_WIDTH,
    KVM,
    KVM_16K,
    HypCheck,
    HypTables,
    HypTransform,
    HypWidth,
    rule,
)
from ttbr.linux.idmap import Extension, extension, idmap_t0sz
from ttbr.linux.layout import LinearMap, Region, kernel_layout, linear_map, ram_regions

__all__ = [
    "INTERSECTION",
    "HypLayout",
    "Meeting",
    "Overlap",
    "hyp_layout",
    "hyp_va_bits",
    "intersects",
    "linear_lsb",
    "overlap",
    "random_tag_bits",
    "runs_merged",
    "trampoline_va",
]

INTERSECTION = "IDMAP intersecting with HYP VA, unable to continue"
"""What the kernel prints before it gives up with -EINVAL (arch/arm64/kvm/mmu.c, since 4.8)."""
HYP_IDMAP_SIZE = 4096
ADDRESS_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class HypLayout:
    """How linear addresses become HYP addresses, and where they end up.

    `va_bits` is the V of the formulas, `hyp_va_bits` the input size of the HYP tables. A HYP
    address is ``(k & mask) | tag << tag_lsb``. `first` and `last` are the HYP addresses of
    PAGE_OFFSET and of the last byte the kernel checks: its "HYP VA range". `idmap` is the page
    (or pages) of the HYP init code, PA and VA alike.
    """

    va_bits: int
    hyp_va_bits: int
    mask: int
    tag: int
    tag_lsb: int
    first: int
    last: int
    idmap: Region

    @property
    def t0sz(self) -> int:
        """TCR_EL2.T0SZ."""
        return 64 - self.hyp_va_bits

    def hyp_va(self, kernel_va: int) -> int:
        """kern_hyp_va of a linear map address."""
        return (kernel_va & self.mask) | self.tag << self.tag_lsb

    def physvirt_offset(self, linear: LinearMap) -> int:
        """hyp_physvirt_offset (5.11+): a physical address less its HYP address."""
        start = linear.ram[0][0]
        return (start - self.hyp_va(linear.to_virt(start))) & ADDRESS_MASK


def hyp_va_bits(config: KernelConfig) -> int:
    """The input size of the HYP tables."""
    reach = 64 - idmap_t0sz(config)
    match rule(HYP_WIDTH, config.release):
        case HypWidth.IDMAP:
            return reach
        case HypWidth.IDMAP_OR_ACTUAL:
            return max(reach, config.va_bits_actual)
        case HypWidth.AT_LEAST_48:
            return max(48, config.va_bits_actual)


def trampoline_va(config: KernelConfig) -> int:
    """TRAMPOLINE_VA (up to 4.7): the last page of the HYP addresses."""
    return (1 << config.va_bits) - config.granule.size


def _idmap_pages(config: KernelConfig) -> Region:
    start = config.image.hyp & -HYP_IDMAP_SIZE
    if rule(HYP_IDMAP_ROUNDED, config.release):
        page = config.granule.size
        return start & -page, -(-(start + HYP_IDMAP_SIZE) // page) * page
    return start, start + HYP_IDMAP_SIZE


def linear_lsb(linear: LinearMap) -> int:
    """tag_lsb: how many low bits tell the linear addresses of the board's memory apart."""
    return (linear.first ^ (linear.high_memory - 1)).bit_length()


def random_tag_bits(config: KernelConfig, va_bits: int, lsb: int) -> int:
    """The mask of HYP address bits that kvm_compute_layout draws at random."""
    kind = rule(HYP_VA, config.release)
    if kind in (HypTransform.MASK, HypTransform.MASK_OR_LOW) or lsb >= va_bits - 1:
        return 0
    if kind is HypTransform.TAG_KASLR and not config.kaslr:
        return 0
    return (1 << (va_bits - 1)) - (1 << lsb)


def _transform(
    config: KernelConfig, linear: LinearMap, va_bits: int, rand: int
) -> tuple[int, int, int]:
    """``(mask, tag, tag_lsb)``."""
    top, idmap = 1 << (va_bits - 1), config.image.hyp
    kind = rule(HYP_VA, config.release)
    if config.vhe:
        return ADDRESS_MASK, 0, 0
    if kind is HypTransform.MASK:
        return 2 * top - 1, 0, 0
    if kind is HypTransform.MASK_OR_LOW:
        low = idmap > top - 1
        return (top if low else 2 * top) - 1, 0, 0
    # The linear map goes to the half whose bit V-1 the ID map does not have.
    half = (idmap & top) ^ top
    lsb = linear_lsb(linear)
    if kind is HypTransform.OLD_TAG and lsb == va_bits - 1:
        # Relies on linear addresses having bit V-1 set: false from 5.4 on (f5523423deda).
        return (top - 1) | half, 0, 0
    tag = half | rand & random_tag_bits(config, va_bits, lsb)
    return (1 << lsb) - 1, tag >> lsb, lsb


def hyp_layout(
    config: KernelConfig, memory: Board | Iterable[tuple[int, int]] | LinearMap, rand: int = 0
) -> HypLayout:
    """The HYP layout of *config* on a board (kvm_compute_layout).

    *rand* is the kernel's random number, of which `random_tag_bits` are used. With VHE kernel
    addresses stay as they are. `UnsupportedError` when that kernel has no KVM.
    """
    if config.release not in KVM:
        raise UnsupportedError(f"KVM: since Linux {KVM.first}, not in {config.release}")
    if config.granule.name == "16K" and config.release not in KVM_16K:
        raise UnsupportedError(
            f"KVM with 16K pages: since Linux {KVM_16K.first}, not in {config.release}"
        )
    linear = memory if isinstance(memory, LinearMap) else linear_map(config, memory)
    width = hyp_va_bits(config)
    va_bits = width if rule(HYP_LAYOUT_WIDE, config.release) else config.va_bits_actual
    mask, tag, lsb = _transform(config, linear, va_bits, rand)
    whole = rule(HYP_CHECK, config.release) is not HypCheck.HIGH_MEMORY
    last = ADDRESS_MASK if whole else linear.high_memory - 1
    move = HypLayout(va_bits, width, mask, tag, lsb, 0, 0, _idmap_pages(config))
    return HypLayout(
        va_bits,
        width,
        mask,
        tag,
        lsb,
        move.hyp_va(kernel_layout(config).page_offset),
        move.hyp_va(last),
        move.idmap,
    )


def intersects(hyp: HypLayout) -> bool:
    """The kernel's check, whose message is `INTERSECTION`.

    The end is inclusive yet compared with less-than, so an ID map page equal to the last HYP
    page is not seen. Under VHE the kernel's third condition, the page's own VA, lets it pass.
    """
    return hyp.mask != ADDRESS_MASK and hyp.first <= hyp.idmap[0] < hyp.last


class Meeting(Enum):
    """How the ID map and the HYP addresses lie to each other at EL2."""

    APART = "the ID map is outside the HYP range"
    SEPARATE = "the ID map is inside the HYP range; two tables and a trampoline keep them apart"
    SLOT = "the ID map has an entry of its own in the extended root"
    INTERSECTS = "the ID map is inside the HYP range and there is one table"
    SLOT_ZERO = "the root is extended, but the HYP init page is below 2^VA_BITS: entry 0 twice"
    BEYOND = "the HYP init page is beyond what the HYP tables translate"


@dataclass(frozen=True, slots=True)
class Overlap:
    """The overlap analysis of a board and a kernel.

    `ram` are the parts of memory whose physical addresses are HYP addresses too: an ID map page
    put there would collide. `straddles` says that the image lies on both sides of 2^VA_BITS.
    """

    meeting: Meeting
    first: int
    last: int
    idmap: Region
    slot: int
    ram: tuple[Region, ...]
    straddles: bool

    @property
    def works(self) -> bool:
        """Whether such a kernel comes up at EL2."""
        return self.meeting in (Meeting.APART, Meeting.SEPARATE, Meeting.SLOT)


def runs_merged(config: KernelConfig) -> bool:
    """Whether KVM runs on merged_hyp_pgd, an extra level over two roots (4.1 to 5.9)."""
    if rule(HYP_TABLES, config.release) not in (HypTables.MERGED, HypTables.SINGLE):
        return False
    bits = 64 - idmap_t0sz(config)
    kind = extension(config.granule, config.va_bits_min, bits)
    return kind in (Extension.EXTRA_LEVEL, Extension.TWO_LEVELS)


def overlap(config: KernelConfig, memory: Board | Iterable[tuple[int, int]]) -> Overlap:
    """Whether the HYP range and the ID map meet, and what keeps them apart if they do.

    Up to 4.7 the HYP range is [0, 2^VA_BITS), the linear map its upper half from
    ``1 << (VA_BITS - 1)``: an ID map that is not extended may lie in it, an extended one cannot.
    """
    hyp = hyp_layout(config, memory)
    if rule(HYP_CHECK, config.release) is HypCheck.NONE:
        first, last = 1 << (hyp.va_bits - 1), (1 << hyp.va_bits) - 1
    else:
        first, last = hyp.first, hyp.last
    ram = tuple(
        (max(start, first), min(end, last + 1))
        for start, end in ram_regions(memory)
        if max(start, first) < min(end, last + 1)
    )
    edge = 1 << config.va_bits_min
    slot = hyp.idmap[0] >> config.va_bits_min
    return Overlap(
        _meeting(config, hyp, first, last, slot),
        first,
        last,
        hyp.idmap,
        slot,
        ram,
        config.image.start < edge < config.image.end,
    )


def _meeting(config: KernelConfig, hyp: HypLayout, first: int, last: int, slot: int) -> Meeting:
    inside = first <= hyp.idmap[0] <= last
    tables = rule(HYP_TABLES, config.release)
    if config.vhe:
        return Meeting.APART
    if runs_merged(config):
        return Meeting.SLOT if slot else Meeting.SLOT_ZERO
    if hyp.idmap[1] > 1 << hyp.hyp_va_bits:
        return Meeting.BEYOND
    if tables in (HypTables.BOOT_AND_RUNTIME, HypTables.MERGED):
        return Meeting.SEPARATE if inside else Meeting.APART
    return Meeting.INTERSECTS if intersects(hyp) else Meeting.APART

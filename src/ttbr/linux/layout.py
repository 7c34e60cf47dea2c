"""Where the kernel puts things in its address space: levels, regions, the linear map.

All addresses are 64-bit unsigned; a region is ``(start, end)`` with the end excluded, where
``1 << 64`` ends the address space. KASAN, which moves the modules, is off.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ttbr.arch.geometry import Granule, level_count, start_level
from ttbr.boards.board import Board
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import BASE_ALIGN, KernelConfig
from ttbr.linux.eras import (
    EXTRA_REACH,
    LINEAR_52,
    LPA2_CLIPPED,
    MEMSTART_CHOSEN,
    MODULES_SHIFT,
    PLACES,
    SECTION_BITS,
    ExtraReach,
    LinearMap52,
    Places,
    rule,
)

__all__ = [
    "Layout",
    "LinearMap",
    "Region",
    "Shape",
    "extra_entries",
    "kernel_layout",
    "linear_map",
    "linear_size",
    "memstart_align",
    "ram_regions",
    "shape",
]

Region = tuple[int, int]
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE_STRUCT_SHIFT = 6  # log2 of sizeof(struct page)


@dataclass(frozen=True, slots=True)
class Shape:
    """The tables that a granule and an input size imply (asm/pgtable-hwdef.h)."""

    granule: Granule
    va_bits: int

    @property
    def t0sz(self) -> int:
        return 64 - self.va_bits

    @property
    def levels(self) -> int:
        """ARM64_HW_PGTABLE_LEVELS."""
        return level_count(self.granule, self.va_bits)

    @property
    def root_level(self) -> int:
        return start_level(self.granule, self.va_bits)

    @property
    def pgdir_shift(self) -> int:
        """PGDIR_SHIFT: log2 of what one root entry maps."""
        return self.granule.level_shift(self.root_level)

    @property
    def root_entries(self) -> int:
        """PTRS_PER_PGD."""
        return 1 << (self.va_bits - self.pgdir_shift)

    @property
    def root_bytes(self) -> int:
        return 8 * self.root_entries

    @property
    def index_bits(self) -> tuple[tuple[int, int, int], ...]:
        """``(level, high, low)`` of the VA bits that index each level, the root first."""
        g, rows = self.granule, []
        for level in range(self.root_level, 4):
            high = min(self.va_bits, g.level_shift(level - 1)) - 1
            rows.append((level, high, g.level_shift(level)))
        return tuple(rows)

    @property
    def extra_shift(self) -> int:
        """EXTRA_SHIFT: what one entry of a level above the root maps, log2."""
        return self.pgdir_shift + self.granule.stride

    def levels_to(self, bits: int) -> int:
        """How many levels an input size of *bits* has more than this one."""
        return level_count(self.granule, bits) - self.levels


def shape(g: Granule, va_bits: int) -> Shape:
    """The tables for *va_bits*; `InvalidError` when no table is needed or 64 bits are exceeded."""
    if not g.shift < va_bits <= 52:
        raise InvalidError(f"VA_BITS {va_bits}: must be {g.shift + 1} to 52 with {g.name} pages")
    return Shape(g, va_bits)


def extra_entries(config: KernelConfig) -> int:
    """EXTRA_PTRS: how many entries the boot code's extra level has (dd006da21646)."""
    tables = shape(config.granule, config.va_bits_min)
    match rule(EXTRA_REACH, config.release):
        case ExtraReach.BITS_48:
            return 1 << (48 - tables.extra_shift)
        case ExtraReach.PA_BITS:
            return 1 << (config.pa_bits - tables.extra_shift)
        case ExtraReach.FULL_TABLE:
            return config.granule.entries


@dataclass(frozen=True, slots=True)
class Layout:
    """The regions of the kernel's half of the address space."""

    page_offset: int
    """PAGE_OFFSET; a 52-bit kernel on a 48-bit CPU has its linear map from `linear` on."""
    linear: Region
    modules: Region
    kimage: int
    """KIMAGE_VADDR; the image starts TEXT_OFFSET above it."""
    vmalloc: Region
    vmemmap: Region
    pci_io: Region | None
    """None before 4.0, when it had no fixed place of its own."""
    fixaddr_top: int


def _align(value: int, size: int) -> int:
    return -(-value // size) * size


def kernel_layout(config: KernelConfig) -> Layout:
    """The regions of *config*, by the formulas of its release."""
    places = rule(PLACES, config.release)
    modules_size = 1 << rule(MODULES_SHIFT, config.release)
    if places in _BEFORE_FLIP:
        offsets = _before_flip(config, places, modules_size)
    else:
        offsets = _after_flip(config, places, modules_size)
    # The macro is of VA_BITS, whatever the CPU has.
    after = places not in _BEFORE_FLIP
    page_offset = -(1 << config.va_bits) if after else -(1 << (config.va_bits - 1))
    # The formulas count down from the top of the address space.
    linear, modules, kimage, vmalloc, vmemmap, pci_io, fixaddr_top = offsets
    return Layout(
        _positive(page_offset),
        _region(linear),
        _region(modules),
        _positive(kimage),
        _region(vmalloc),
        _region(vmemmap),
        None if pci_io is None else _region(pci_io),
        _positive(fixaddr_top),
    )


def _positive(offset: int) -> int:
    return offset + (1 << 64)


def _region(offsets: Region) -> Region:
    return _positive(offsets[0]), _positive(offsets[1])


_Offsets = tuple[Region, Region, int, Region, Region, Region | None, int]
_BEFORE_FLIP = (
    Places.IMAGE_IN_LINEAR_318,
    Places.IMAGE_IN_LINEAR,
    Places.IMAGE_IN_LINEAR_45,
    Places.IMAGE_IN_VMALLOC,
    Places.VMEMMAP_BELOW_LINEAR,
)


def _pud_size(config: KernelConfig) -> int:
    """PUD_SIZE; with three levels the PUD is folded into the PGD, with two also the PMD."""
    tables = shape(config.granule, config.va_bits)
    return 1 << min(config.granule.level_shift(1), tables.pgdir_shift)


def _before_flip(config: KernelConfig, places: Places, modules_size: int) -> _Offsets:
    """The linear map is the upper half (up to 5.3)."""
    bits, page, pud = config.va_bits, config.granule.shift, _pud_size(config)
    page_offset, start = -(1 << (bits - 1)), -(1 << bits)
    linear = (page_offset, 0)
    size = 1 << (bits - page - 1 + PAGE_STRUCT_SHIFT)
    if places is Places.VMEMMAP_BELOW_LINEAR:
        vmemmap = (page_offset - size, page_offset)
    else:
        # Up to 4.4 frames are numbered from physical address 0, so the window is for all VAs.
        whole = places in (Places.IMAGE_IN_LINEAR_318, Places.IMAGE_IN_LINEAR)
        size = _align(size * (2 if whole else 1), pud)
        vmemmap = (page_offset - pud - size, page_offset - pud)
    vmalloc_end = page_offset - pud - size - 64 * KIB
    if places in (Places.IMAGE_IN_VMALLOC, Places.VMEMMAP_BELOW_LINEAR):
        modules = (start, start + modules_size)
        kimage, vmalloc = modules[1], (modules[1], vmalloc_end)
        io_end = (vmemmap[0] if places is Places.VMEMMAP_BELOW_LINEAR else page_offset) - 2 * MIB
    else:
        modules, kimage = (page_offset - modules_size, page_offset), page_offset
        vmalloc, io_end = (start, vmalloc_end), modules[0] - 2 * MIB
    if places is Places.IMAGE_IN_LINEAR_318:
        return linear, modules, kimage, vmalloc, vmemmap, None, io_end - 4 * KIB
    pci_io = (io_end - 16 * MIB, io_end)
    return linear, modules, kimage, vmalloc, vmemmap, pci_io, pci_io[0] - 2 * MIB


def _after_flip(config: KernelConfig, places: Places, modules_size: int) -> _Offsets:
    """The linear map is the lower half (since 5.4, 14c127c957c1)."""
    bits, page = config.va_bits, config.granule.shift
    page_offset, page_end = -(1 << bits), -(1 << (config.va_bits_min - 1))
    linear_start = -(1 << config.va_bits_actual)
    size = (page_end - page_offset) >> (page - PAGE_STRUCT_SHIFT)
    modules_start = page_end + (128 * MIB if places is Places.FLIPPED else 0)
    modules = (modules_start, modules_start + modules_size)
    match places:
        case Places.FLIPPED:
            start = -size - 2 * MIB
            vmalloc_end = -_pud_size(config) - size - 64 * KIB
            io_end = start - 2 * MIB
            fixmap = io_end - 18 * MIB
        case Places.VMEMMAP_TOP:
            start = -(1 << (bits - (page - PAGE_STRUCT_SHIFT)))
            vmalloc_end = start - 256 * MIB
            io_end = start - 8 * MIB
            fixmap = start - 32 * MIB
        case _:
            start = -GIB - size
            # The part of vmemmap for linear addresses that a 48-bit CPU does not have is free.
            unused = (linear_start - page_offset) >> (page - PAGE_STRUCT_SHIFT)
            vmalloc_end = start + unused - 8 * MIB
            io_end = -GIB + 24 * MIB
            fixmap = -8 * MIB
    linear = (linear_start, linear_start + linear_size(config))
    vmalloc, pci_io = (modules[1], vmalloc_end), (io_end - 16 * MIB, io_end)
    return linear, modules, modules[1], vmalloc, (start, start + size), pci_io, fixmap


def linear_size(config: KernelConfig) -> int:
    """Bytes of the linear map's region."""
    if config.va_bits_actual < 52:
        return 1 << (config.va_bits_actual - 1)
    kind = rule(LINEAR_52, config.release)
    half = 1 << 51
    if kind is LinearMap52.HALF or (kind is LinearMap52.CAPPED and not config.vhe):
        return half
    return (1 << 52) - (1 << (config.va_bits_min - 1))


def memstart_align(config: KernelConfig) -> int:
    """ARM64_MEMSTART_ALIGN: 1 GiB with 4K and 16K pages, 512 MiB or a section with 64K."""
    small, large = rule(SECTION_BITS, config.release)
    wide = config.granule.name == "64K"
    return 1 << (max(29, large) if wide else max(30, small))


def ram_regions(memory: Board | Iterable[tuple[int, int]]) -> tuple[Region, ...]:
    """The memory windows as sorted regions, neighbours joined.

    *memory* is ``(start, size)`` pairs or has `.memory`. `InvalidError` names two windows that
    overlap, and an empty one.
    """
    if isinstance(memory, Iterable):
        pairs = sorted(memory)
    else:
        pairs = sorted((window.start, window.size) for window in memory.memory)
    joined: list[Region] = []
    for start, size in pairs:
        if size <= 0 or start < 0:
            raise InvalidError(f"memory at {start:#x}: size {size:#x} is not positive")
        if joined and start < joined[-1][1]:
            raise InvalidError(
                f"memory {start:#x}-{start + size - 1:#x} overlaps "
                f"{joined[-1][0]:#x}-{joined[-1][1] - 1:#x}"
            )
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], start + size)
        else:
            joined.append((start, start + size))
    if not joined:
        raise InvalidError("memory: the board has none")
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class LinearMap:
    """The linear map after arm64_memblock_init: what RAM is left, and where it appears."""

    memstart: int
    base: int
    """The kernel VA of `memstart` (for a 52-bit kernel on a 48-bit CPU: of the first byte)."""
    ram: tuple[Region, ...]

    def to_virt(self, pa: int) -> int:
        """phys_to_virt."""
        return (pa - self.memstart + self.base) & ((1 << 64) - 1)

    def to_phys(self, va: int) -> int:
        """virt_to_phys of a linear map address."""
        return va - self.base + self.memstart

    @property
    def first(self) -> int:
        """The linear address of the first byte of DRAM."""
        return self.to_virt(self.ram[0][0])

    @property
    def high_memory(self) -> int:
        """The linear address after the last byte of DRAM."""
        return self.to_virt(self.ram[-1][1] - 1) + 1


def _clip(ram: Iterable[Region], low: int, high: int) -> tuple[Region, ...]:
    return tuple((max(s, low), min(e, high)) for s, e in ram if max(s, low) < min(e, high))


def _pa_reach(config: KernelConfig) -> int:
    """Bits of the physical addresses that are kept."""
    narrow = config.granule.name != "64K" and not config.va52
    return 48 if narrow and rule(LPA2_CLIPPED, config.release) else config.pa_bits


def linear_map(
    config: KernelConfig, memory: Board | Iterable[tuple[int, int]], random_offset: int = 0
) -> LinearMap:
    """arm64_memblock_init: clip *memory* to what the linear map can hold, and place it.

    *random_offset* is by how much KASLR lowers memstart. `UnsupportedError` when the image is
    not in memory.
    """
    image, size, align = config.image, linear_size(config), memstart_align(config)
    whole = ram_regions(memory)
    if not any(s <= image.start and image.end <= e for s, e in whole):
        raise UnsupportedError(
            f"image {image.start:#x}-{image.end - 1:#x} is not inside one memory window"
        )
    ram = _clip(whole, 0, 1 << _pa_reach(config))
    base = kernel_layout(config).linear[0]
    if not rule(MEMSTART_CHOSEN, config.release):
        memstart = (image.start - config.text_offset) & -BASE_ALIGN
        return LinearMap(memstart, base, _clip(ram, memstart, memstart + size))
    memstart = ram[0][0] & ~(align - 1)
    # The window moves up when the kernel is above it: what is above _end goes first.
    ram = _clip(ram, 0, max(memstart + size, image.end))
    end = ram[-1][1]
    if memstart + size < end:
        memstart = _align(end - size, align)
        ram = _clip(ram, memstart, end)
    if random_offset % align or not 0 <= random_offset <= size - (end - memstart):
        raise InvalidError(
            f"random offset {random_offset:#x}: must be a multiple of {align:#x} that leaves "
            f"the {end - memstart:#x} bytes of memory inside the linear map"
        )
    return LinearMap(memstart - random_offset, base, ram)

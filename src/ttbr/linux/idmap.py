"""The identity map: its T0SZ, whether it is extended and how, what it maps, its size in the image.

The ID map turns the MMU on, so the code in it must be mapped at VA = PA. When that PA needs more
bits than VA_BITS, T0SZ is lowered and the tables get a wider root or a level above it.
"""

from dataclasses import dataclass
from enum import Enum

from ttbr.arch.geometry import Granule
from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import (
    IDMAP_AREA,
    IDMAP_COVERS,
    IDMAP_T0SZ,
    ONE_ENTRY_A_LEVEL,
    Coverage,
    Decision,
    IdmapArea,
    rule,
)
from ttbr.linux.layout import MIB, Region, Shape, extra_entries, kernel_layout, shape

__all__ = [
    "Extension",
    "IdMap",
    "covered",
    "crossing",
    "extension",
    "id_map",
    "idmap_area",
    "idmap_t0sz",
]

ADRP_PAGE = 4096
MAX_FDT_SIZE = 2 * MIB


class Extension(Enum):
    """How an ID map differs from tables of VA_BITS."""

    NONE = "none"
    WIDER_ROOT = "wider root"
    EXTRA_LEVEL = "extra level"
    TWO_LEVELS = "two extra levels"


@dataclass(frozen=True, slots=True)
class IdMap:
    """The ID map of a configuration.

    `decided_by` is the 4 KiB page whose address T0SZ was found from (adrp of the end symbol; None
    where T0SZ is constant). `slot` is the index of the idmap page at the extra level, or in the
    root when there is none. `boot` is what it maps while booting, rounded to `leaf` bytes as the
    boot code does; `permanent` what it maps once the kernel runs. `area` is in bytes.
    """

    shape: Shape
    decided_by: int | None
    extension: Extension
    slot: int
    boot: Region
    permanent: Region
    leaf: int
    area: int

    @property
    def t0sz(self) -> int:
        return self.shape.t0sz

    @property
    def reach(self) -> int:
        """The first address that the ID map cannot map."""
        return 1 << self.shape.va_bits


def _clz(address: int) -> int:
    return 64 - address.bit_length()


def _decisive_page(config: KernelConfig) -> int | None:
    # adrp gives the page that holds the symbol. _end is exclusive, so an image that ends exactly
    # on 2^VA_BITS is extended although it need not be. .idmap.text ends inside its page.
    match rule(IDMAP_T0SZ, config.release):
        case Decision.IMAGE_PAGE | Decision.IMAGE_OR_MIN:
            return config.image.end & -ADRP_PAGE
        case Decision.TEXT_PAGE | Decision.TEXT_PAGE_MIN:
            return config.image.text & -ADRP_PAGE
        case _:
            return None


def idmap_t0sz(config: KernelConfig) -> int:
    """The kernel variable idmap_t0sz, by the rule of its release; whether it works is not asked."""
    decision, page = rule(IDMAP_T0SZ, config.release), _decisive_page(config)
    if decision is Decision.ALWAYS_48:
        return 16
    if page is None:
        return 64 - config.va_bits
    if decision is Decision.IMAGE_OR_MIN:
        return _clz(page | (1 << config.va_bits_min) - 1)
    minimum = decision is Decision.TEXT_PAGE_MIN
    return min(_clz(page), 64 - (config.va_bits_min if minimum else config.va_bits))


def extension(g: Granule, va_bits: int, bits: int) -> Extension:
    """What tables for *va_bits* need in order to translate *bits*."""
    if bits <= va_bits:
        return Extension.NONE
    match shape(g, va_bits).levels_to(bits):
        case 0:
            return Extension.WIDER_ROOT
        case 1:
            return Extension.EXTRA_LEVEL
        case _:
            return Extension.TWO_LEVELS


def id_map(config: KernelConfig) -> IdMap:
    """The ID map of *config*; `UnsupportedError` says which kernel cannot make the one needed."""
    tables = shape(config.granule, 64 - idmap_t0sz(config))
    kind = extension(config.granule, config.va_bits_min, tables.va_bits)
    always = rule(IDMAP_T0SZ, config.release) is Decision.ALWAYS_48
    last = config.image.end - 1
    if kind is Extension.TWO_LEVELS and not always:
        raise UnsupportedError(
            f"ID map: {config.granule.name} pages with VA_BITS {config.va_bits_min} would need two "
            f"more levels for {tables.va_bits} bits (image up to {last:#x}); no kernel before 6.9 "
            f"makes more than one"
        )
    normal = shape(config.granule, config.va_bits_min)
    slot_shift = tables.pgdir_shift
    boot, permanent, leaf = covered(config)
    if boot[1] > 1 << tables.va_bits:
        raise UnsupportedError(
            f"ID map: {boot[0]:#x}-{boot[1] - 1:#x} is beyond the {tables.va_bits} bits that Linux "
            f"{config.release} gives it with VA_BITS {config.va_bits}"
        )
    # The boot code masks the index with EXTRA_PTRS, so a slot beyond it is lost.
    if kind is Extension.EXTRA_LEVEL and not always:
        slot_shift = normal.extra_shift
        if config.image.text >> slot_shift >= extra_entries(config):
            raise UnsupportedError(
                f"ID map: {config.image.text:#x} is beyond the {extra_entries(config)} entries "
                f"of the extra level in Linux {config.release}"
            )
    edge = crossing(config, tables, boot)
    if edge is not None and rule(ONE_ENTRY_A_LEVEL, config.release):
        raise UnsupportedError(
            f"ID map: {boot[0]:#x}-{boot[1] - 1:#x} straddles {edge:#x}; Linux {config.release} "
            f"writes one entry a level, so what is above wraps to the start of the same table "
            f"(since 4.16 it does not)"
        )
    return IdMap(
        tables,
        _decisive_page(config),
        kind,
        config.image.text >> slot_shift,
        boot,
        permanent,
        leaf,
        idmap_area(config),
    )


def crossing(config: KernelConfig, tables: Shape, region: Region) -> int | None:
    """The first boundary inside *region* at which an upper-level entry of *tables* ends, or None.

    The upper levels are those above the leaves that the boot code writes.
    """
    leaf_level = 2 if config.granule.name == "4K" else 3
    size = config.granule.entry_size(leaf_level - 1)
    if tables.root_level >= leaf_level:
        return None
    edge = -(-(region[0] + 1) // size) * size
    return edge if edge < region[1] else None


def covered(config: KernelConfig) -> tuple[Region, Region, int]:
    """What the ID map maps at boot and afterwards, and the size of the leaves at boot."""
    image, page = config.image, config.granule.size
    leaf = 2 * MIB if config.granule.name == "4K" else page
    text = _rounded((image.text, image.text + 1), page)
    match rule(IDMAP_COVERS, config.release):
        case Coverage.IMAGE:
            whole = _rounded((image.start, image.end), leaf)
            return whole, whole, leaf
        case Coverage.TEXT:
            block = _rounded(text, leaf)
            return block, block, leaf
        case Coverage.IMAGE_THEN_TEXT:
            return _rounded((image.start, image.end), leaf), text, leaf


def _rounded(region: Region, size: int) -> Region:
    return region[0] & -size, -(-region[1] // size) * size


def idmap_area(config: KernelConfig) -> int:
    """Bytes of the image that are reserved for the ID map's boot tables.

    6.12.y adds two or three pages when the image's segments are not aligned to blocks.
    """
    page, blocks = config.granule.size, config.granule.name == "4K"
    match rule(IDMAP_AREA, config.release):
        case IdmapArea.SWAPPER:
            return (shape(config.granule, config.va_bits).levels - blocks) * page
        case IdmapArea.THREE:
            return 3 * page
        case IdmapArea.WORST_CASE:
            return (shape(config.granule, config.pa_bits).levels - blocks) * page
        case IdmapArea.SPANS:
            levels = shape(config.granule, config.va_bits).levels - blocks
            beyond = MAX_FDT_SIZE + (2 * MIB if blocks else page)
            extra = 2 if config.va_bits < 48 else 0
            return (_early_pages(config, levels, beyond) + extra) * page
        case IdmapArea.SPANS_48:
            levels = shape(config.granule, 48).levels - blocks
            return _early_pages(config, levels, 0) * page


def _early_pages(config: KernelConfig, levels: int, beyond: int) -> int:
    """EARLY_PAGES: the root, and for each level below it the spanned entries and one more."""
    start = kernel_layout(config).kimage
    end = start + config.image.end - config.image.start + beyond
    leaf_level = 2 if config.granule.name == "4K" else 3
    pages = 1
    for above in range(1, levels):
        shift = config.granule.level_shift(leaf_level - above)
        pages += ((end - 1) >> shift) - (start >> shift) + 2
    return pages

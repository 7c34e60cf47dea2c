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
    SELECTABLE,
    Coverage,
    Decision,
    IdmapArea,
    rule,
)
from ttbr.linux.layout import MIB, Region, Shape, kernel_layout, shape

__all__ = [
    "Extension",
    "IdMap",
    "covered",
    "crossing",
    "extension",
    "id_map",
    "idmap_area",
    "idmap_t0sz",
    "lacks_level",
    "written",
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
    root when there is none. `boot` is what it is to map while booting, rounded to `leaf` bytes as
    the boot code does; `permanent` what it maps once the kernel runs. `area` is in bytes.
    `why_not` is empty, or says that it does not hold the code that turns the MMU on, and why.
    """

    shape: Shape
    decided_by: int | None
    extension: Extension
    slot: int
    boot: Region
    permanent: Region
    leaf: int
    area: int
    why_not: str = ""

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
    """The ID map of *config*; `IdMap.why_not` where it lacks the code that turns the MMU on.

    `UnsupportedError` for an image of 6.9 or newer on both sides of 2^48: what its boot code then
    writes is past its tables.
    """
    tables = shape(config.granule, 64 - idmap_t0sz(config))
    boot, permanent, leaf = covered(config)
    if _always_48(config) and boot[0] < 1 << 48 < boot[1]:
        raise UnsupportedError(
            f"ID map: {boot[0]:#x}-{boot[1] - 1:#x} is on both sides of the end of its 48 bits"
        )
    return IdMap(
        tables,
        _decisive_page(config),
        extension(config.granule, config.va_bits_min, tables.va_bits),
        (config.image.text >> tables.pgdir_shift) % config.granule.entries,
        boot,
        permanent,
        leaf,
        idmap_area(config),
        _why_not(config, tables, boot),
    )


def _always_48(config: KernelConfig) -> bool:
    return rule(IDMAP_T0SZ, config.release) is Decision.ALWAYS_48


def lacks_level(config: KernelConfig) -> bool:
    """Whether the ID map needs two more levels, of which the boot code makes one."""
    bits = 64 - idmap_t0sz(config)
    kind = extension(config.granule, config.va_bits_min, bits)
    return kind is Extension.TWO_LEVELS and not _always_48(config)


def written(config: KernelConfig, region: Region) -> tuple[int, Region] | None:
    """(VA, what is mapped there) of *region*, which the boot code means to map at VA = PA.

    None where no walk finds any of it. The code takes an index modulo the entries of a table
    (create_table_entry, map_range). While it wrote one entry a level, a region whose last index
    is below its first got its first leaf only (create_block_map).
    """
    if lacks_level(config):
        return None
    tables, (start, end) = shape(config.granule, 64 - idmap_t0sz(config)), region
    if rule(ONE_ENTRY_A_LEVEL, config.release) and crossing(config, tables, region) is not None:
        end = start + covered(config)[2]
    reach = 1 << tables.va_bits
    va = start if start < reach else start % (config.granule.entries << tables.pgdir_shift)
    size = min(end - start, reach - va)
    return (va, (start, start + size)) if size > 0 else None


def _why_not(config: KernelConfig, tables: Shape, boot: Region) -> str:
    page, found = config.image.text & -config.granule.size, written(config, boot)
    if found is not None and found[0] == boot[0] and page < found[1][1]:
        return ""
    why, needs = _lost(config, tables, boot)
    text = needs[0] if len(needs) == 1 else f"{', '.join(needs[:-1])} or {needs[-1]}"
    return (
        f"the ID map cannot reach the image: {why}: the kernel takes a translation fault right "
        f"behind SCTLR_EL1.M=1; needs {text}"
    )


def _lost(config: KernelConfig, tables: Shape, boot: Region) -> tuple[str, list[str]]:
    """Why the code that turns the MMU on is not at VA = PA, and what would help."""
    name, bits, narrow = config.granule.name, tables.va_bits, config.va_bits_min
    wider = [
        f"VA_BITS {offered}"
        for (page, offered), since in SELECTABLE.items()
        if page == name and narrow < offered < 52 and config.release in since
    ]
    if lacks_level(config):
        most = config.granule.level_shift(shape(config.granule, narrow).root_level - 2)
        why = f"{name} pages with VA_BITS {narrow} would need two more levels for {bits} bits"
        needs = ["Linux 6.9 (always 48 bits)", *wider[:1], f"an image below {1 << most:#x}"]
        return why, needs
    edge = crossing(config, tables, boot)
    if edge is not None and rule(ONE_ENTRY_A_LEVEL, config.release):
        why = (
            f"{boot[0]:#x}-{boot[1] - 1:#x} straddles {edge:#x}, and of such a range Linux "
            f"{config.release}, which writes one entry a level, maps the first leaf only"
        )
        below = min(edge, 1 << bits)
        return why, ["Linux 4.2 (an ID map of one page)", f"an image below {below:#x}"]
    why = (
        f"{config.image.text:#x} is beyond the {bits} bits that Linux {config.release} gives it "
        f"with VA_BITS {config.va_bits}"
    )
    newer = [] if _always_48(config) else ["Linux 4.1 (extra level)", *wider[:1]]
    return why, [*newer, f"an image below {1 << bits:#x}"]


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

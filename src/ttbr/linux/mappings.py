"""What is mapped, as regions: the EL1 ID map while booting and afterwards, and the EL2 map.

Where things are inside the image comes from symbols; without them the image up to its idmap pages
is taken as code and the rest as data.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ttbr.arch.geometry import PA, VA
from ttbr.build import HYP_DATA, HYP_TEXT, IDMAP, KERNEL_DATA, KERNEL_TEXT, Attributes
from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import BOOT_IDMAP, BootIdmap, rule
from ttbr.linux.hyp import HypLayout
from ttbr.linux.idmap import MAX_FDT_SIZE, id_map, lacks_level, written
from ttbr.linux.layout import LinearMap
from ttbr.regions import Region

__all__ = [
    "Section",
    "boot_idmap",
    "default_sections",
    "hyp_idmap",
    "hyp_regions",
    "permanent_idmap",
]

# The boot code of up to 6.8 sets neither UXN nor PXN.
BOOT_RWX = Attributes(access="rwx", user="x")
BOOT_RX = Attributes(access="rx", user="x")


@dataclass(frozen=True, slots=True)
class Section:
    """Physical memory [`start`, `end`) that EL2 maps at its HYP address."""

    name: str
    start: int
    end: int
    attributes: Attributes


def default_sections(config: KernelConfig) -> tuple[Section, ...]:
    """The image as code up to its idmap pages, then data."""
    image, page = config.image, config.granule.size
    start, end = image.start & -page, -(-image.end // page) * page
    split = (max(image.text, image.hyp) & -page) + page
    sections = [Section("HYP text", start, min(split, end), HYP_TEXT)]
    if split < end:
        sections.append(Section("HYP data", split, end, HYP_DATA))
    return tuple(sections)


def hyp_regions(
    config: KernelConfig, linear: LinearMap, hyp: HypLayout, sections: Iterable[Section]
) -> tuple[Region[Attributes], ...]:
    """*sections* at their HYP addresses, in pages as create_hyp_mappings maps them."""
    page = config.granule.size
    return tuple(
        Region(
            VA(hyp.hyp_va(linear.to_virt(section.start))),
            PA(section.start),
            section.end - section.start,
            section.attributes.replace(largest=page),
            section.name,
        )
        for section in sections
    )


def hyp_idmap(config: KernelConfig, hyp: HypLayout) -> Region[Attributes]:
    """The HYP init code at VA = PA."""
    page = config.granule.size
    start, end = hyp.idmap[0] & -page, -(-hyp.idmap[1] // page) * page
    return _identity("HYP ID map", start, end, HYP_TEXT.replace(largest=page))


def _identity(name: str, start: int, end: int, attributes: Attributes) -> Region[Attributes]:
    return Region(VA(start), PA(start), end - start, attributes, name)


def boot_idmap(
    config: KernelConfig,
    *,
    stext: int | None = None,
    writable: tuple[int, int] | None = None,
    fdt: int | None = None,
) -> tuple[Region[Attributes], ...]:
    """The ID map that the MMU is turned on with, as its tables have it.

    That is VA = PA but for what an ID map does not reach (`IdMap.why_not`). *stext* is the address
    of _stext; *writable* what is mapped writable: from 6.0 init_pg_dir to init_pg_end, from 6.9
    __initdata_begin to _end; *fdt* the device tree. All are physical. `UnsupportedError` from 6.0
    to 6.8 where the ID map needs two more levels.
    """
    found = id_map(config)
    start, end = found.boot
    match rule(BOOT_IDMAP, config.release):
        case BootIdmap.ALL_WRITABLE:
            return _written(config, "ID map", start, end, BOOT_RWX)
        case BootIdmap.BLOCKS:
            if lacks_level(config):
                raise UnsupportedError(f"not modelled: {found.why_not}")
            return _boot_blocks(config, found.leaf, writable, fdt)
        case BootIdmap.SEGMENTS:
            first = config.image.start if stext is None else stext
            split = config.image.end if writable is None else writable[0]
            code = _written(config, "ID map", first, split, KERNEL_TEXT)
            if split == config.image.end:
                return code
            return *code, *_written(
                config, "ID map, writable", split, config.image.end, KERNEL_DATA
            )


def _written(
    config: KernelConfig, name: str, start: int, end: int, attributes: Attributes
) -> tuple[Region[Attributes], ...]:
    """What the ID map has of [*start*, *end*), which is to be at VA = PA."""
    found = written(config, (start, end))
    if found is None:
        return ()
    va, (first, last) = found
    return (Region(VA(va), PA(first), last - first, attributes, name),)


def _boot_blocks(
    config: KernelConfig, leaf: int, writable: tuple[int, int] | None, fdt: int | None
) -> tuple[Region[Attributes], ...]:
    """6.0 to 6.8: code up to the device tree's place behind the image, which is not VA = PA."""
    start, end = config.image.start & -leaf, (config.image.end + leaf) & -leaf
    low, high = (
        (end, end) if writable is None else (writable[0] & -leaf, -(-writable[1] // leaf) * leaf)
    )
    regions = [
        _identity("ID map", start, low, BOOT_RX),
        _identity("ID map, writable", low, high, BOOT_RWX),
        _identity("ID map, tail", high, end, BOOT_RX),
    ]
    if fdt is not None:
        place = Region(VA(end), PA(fdt & -leaf), MAX_FDT_SIZE + leaf, BOOT_RWX, "device tree")
        regions.append(place)
    return tuple(region for region in regions if region.size)


def permanent_idmap(
    config: KernelConfig, kpti_flag: int | None = None
) -> tuple[Region[Attributes], ...]:
    """idmap_pg_dir once the kernel runs; *kpti_flag* is the physical address of its flag's page.

    Up to 5.19 it is the table of the boot.
    """
    if rule(BOOT_IDMAP, config.release) is BootIdmap.ALL_WRITABLE:
        return boot_idmap(config)
    page = config.granule.size
    regions = [*_written(config, "ID map", *id_map(config).permanent, IDMAP)]
    if kpti_flag is not None:
        start = kpti_flag & -page
        regions.append(_identity("KPTI flag", start, start + page, KERNEL_DATA))
    return tuple(regions)

"""The EL1 side: the ID map at TTBR0_EL1 with a T0SZ of its own, and the values that sequences use.

The kernel is at TTBR1_EL1 throughout. TTBR0_EL1 is the ID map, the reserved table (nothing is
valid) or a process, and T0SZ goes with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL1
from ttbr.boards.board import Board
from ttbr.build import (
    IDMAP,
    KERNEL_DATA,
    KERNEL_TEXT,
    Arena,
    Attributes,
    Mair,
    Tables,
    build,
    registers_of,
    table_params,
)
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import PLACES, Places, rule
from ttbr.linux.idmap import id_map
from ttbr.linux.layout import LinearMap, kernel_layout, linear_map
from ttbr.linux.mappings import boot_idmap, default_sections
from ttbr.linux.sequences import Sequence
from ttbr.regions import Region

__all__ = ["El1", "el1_tables", "kernel_regions"]

ASID, ASID_SHIFT = 1, 48
PROCESS_VA = 0x400000
SCTLR_M = 1
IMAGE_IS_LINEAR = (
    Places.IMAGE_IN_LINEAR_318,
    Places.IMAGE_IN_LINEAR,
    Places.IMAGE_IN_LINEAR_45,
)


@dataclass(frozen=True, slots=True)
class El1:
    """The roots of EL1&0 and how far the kernel's addresses are above the image's physical ones.

    `copy` is the ID map of the single page that hibernate and kexec copy from, `process` a process
    with one page, `reserved` the empty table.
    """

    config: KernelConfig
    kernel: Tables
    idmap: Tables
    reserved: Tables
    process: Tables
    copy: Tables
    kimage_offset: int

    def registers(self, low: Tables) -> dict[str, int]:
        """TTBR0, TTBR1, TCR, MAIR and SCTLR of EL1 with *low* at TTBR0."""
        return registers_of(low.params, self.kernel.params)

    def values(self, sequence: Sequence, low: Tables) -> dict[str, int]:
        """What `Sequence.inputs` name; *low* is what is at TTBR0 when the sequence is through."""
        after, idmap = self.registers(low), self.registers(self.idmap)
        process = self.registers(self.process)
        ttbr1 = after["TTBR1_EL1"]
        entry = self.config.image.text
        named = {
            "tcr": after["TCR_EL1"],
            "ttbr0": after["TTBR0_EL1"],
            "ttbr1": ttbr1,
            "mair": after["MAIR_EL1"],
            "sctlr": after["SCTLR_EL1"],
            "off_sctlr": after["SCTLR_EL1"] & ~SCTLR_M,
            "idmap_ttbr0": idmap["TTBR0_EL1"],
            "idmap_t0sz": idmap["TCR_EL1"] & 63,
            "saved_tcr": process["TCR_EL1"],
            "process_ttbr0": process["TTBR0_EL1"],
            "copy_ttbr0": self.registers(self.copy)["TTBR0_EL1"],
            "reserved_ttbr0": self.reserved.root,
            "reserved_ttbr1": self.reserved.root,
            "zero_ttbr1": self.reserved.root,
            "new_ttbr1": ttbr1,
            "asid_ttbr1": ttbr1 | ASID << ASID_SHIFT,
            "vectors": (entry + self.kimage_offset) & -2048,
            "run_target": entry + self.kimage_offset + 4 * sequence.target,
            "kexec_entry": entry + 4 * sequence.target,
        }
        return {name: named[name] for name in sequence.inputs.values()}


def kernel_regions(config: KernelConfig, linear: LinearMap) -> tuple[Region[Attributes], ...]:
    """What TTBR1 maps of memory: the linear map, and from 4.6 on the image at KIMAGE_VADDR.

    Up to 4.5 the image is in the linear map, which is executable there.
    """
    inside = rule(PLACES, config.release) in IMAGE_IS_LINEAR
    attributes = Attributes(access="rwx") if inside else KERNEL_DATA
    regions = [
        Region(VA(linear.to_virt(start)), PA(start), end - start, attributes, "linear map")
        for start, end in linear.ram
    ]
    if not inside:
        offset = kernel_layout(config).kimage + config.text_offset - config.image.start
        texts = (KERNEL_TEXT, KERNEL_DATA)
        regions += [
            Region(VA(s.start + offset), PA(s.start), s.end - s.start, attributes, "image")
            for s, attributes in zip(default_sections(config), texts, strict=False)
        ]
    return tuple(regions)


def el1_tables(
    config: KernelConfig, memory: Board | Iterable[tuple[int, int]], arena: Arena
) -> El1:
    """The EL1 tables of *config* on a board, in *arena*; the ID map as the release makes it.

    `UnsupportedError` where that is not modelled; `InvalidError` where memory does not hold the
    kernel.
    """
    linear, g = linear_map(config, memory), config.granule
    mair, wide = Mair(), _wide_format(config)
    kernel = build(
        kernel_regions(config, linear),
        table_params(EL1, g, config.va_bits_actual, upper=True, **wide),
        arena=arena,
        mair=mair,
    )
    offset = linear.to_virt(config.image.start) - config.image.start
    if rule(PLACES, config.release) not in IMAGE_IS_LINEAR:
        offset = kernel_layout(config).kimage + config.text_offset - config.image.start

    def low(bits: int, *regions: Region[Attributes]) -> Tables:
        return build(regions, table_params(EL1, g, bits, **wide), arena=arena, mair=mair)

    found = id_map(config)
    page = config.image.text & -g.size
    code = Region(VA(page), PA(page), g.size, IDMAP, "copy page")
    user = Attributes(access="rx", user="rx", not_global=True)
    process = Region(VA(PROCESS_VA), PA(page), g.size, user, "process")
    return El1(
        config,
        kernel,
        low(found.shape.va_bits, *boot_idmap(config)),
        low(config.va_bits_actual),
        low(config.va_bits_actual, process),
        low(_copy_bits(page), code),
        offset,
    )


def _copy_bits(page: int) -> int:
    """trans_pgd_idmap_page: 48 bits, or 52 for a page above them."""
    return 52 if page >> 48 else 48


def _wide_format(config: KernelConfig) -> dict[str, bool]:
    wide = config.va_bits_actual > 48 or config.pa_bits > 48
    is_64k = config.granule.name == "64K"
    return {"ds": wide and not is_64k, "lpa": wide and is_64k}

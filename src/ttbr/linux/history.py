"""Layout defects that Linux releases had: which releases, the fix, and whether a board meets them.

A `Bug` is data: the releases with the faulty rule, the commit that ended it, and a check that says
the defect in a sentence when a configuration and a board meet it. The check applies the rules of
the configuration's release, so with the rule of the fix it is silent. `defects` asks those of the
release. Memory is what the linear map keeps of the board's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ttbr.boards.board import Board
from ttbr.linux.config import KernelConfig
from ttbr.linux.eras import (
    END_INCLUSIVE,
    HYP_IDMAP_ROUNDED,
    HYP_PRIVATE,
    HYP_PS,
    HYP_TABLES,
    KVM,
    KVM_16K,
    ONE_ENTRY_A_LEVEL,
    T0SZ_BY_FLAG,
    UNMAP_NARROW,
    VMEMMAP_FROM_ZERO,
    HypTables,
    KernelVersion,
    rule,
    version,
)
from ttbr.linux.hyp import (
    INTERSECTION,
    HypLayout,
    Meeting,
    Overlap,
    hyp_layout,
    hyp_va_bits,
    overlap,
    runs_merged,
)
from ttbr.linux.idmap import Extension, covered, crossing, extension, idmap_t0sz
from ttbr.linux.layout import (
    LinearMap,
    extra_entries,
    kernel_layout,
    linear_map,
    linear_size,
    shape,
)
from ttbr.linux.sequences import sequence

__all__ = ["BUGS", "Bug", "Defect", "defects"]


Memory = Board | Iterable[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Case:
    """What a check looks at: a configuration on a board."""

    config: KernelConfig
    board: Memory
    linear: LinearMap

    @property
    def ram_end(self) -> int:
        return self.linear.ram[-1][1]

    @property
    def bits(self) -> int:
        return 64 - idmap_t0sz(self.config)

    @property
    def extended(self) -> bool:
        return self.bits > self.config.va_bits_min

    @property
    def kvm(self) -> bool:
        """Whether KVM's nVHE code runs at all."""
        config = self.config
        since = KVM_16K if config.granule.name == "16K" else KVM
        return not config.vhe and config.release in since

    def hyp(self) -> HypLayout:
        return hyp_layout(self.config, self.linear)

    def overlap(self) -> Overlap:
        return overlap(self.config, self.board)


@dataclass(frozen=True, slots=True)
class Bug:
    """A defect of the releases `first` to `last`, ended by `fix` (a commit, or its title).

    `check` gives a sentence, or an empty string when the board does not meet the defect.
    """

    name: str
    first: KernelVersion
    last: KernelVersion
    fix: str
    check: Callable[[_Case], str]

    def met(self, config: KernelConfig, memory: Memory) -> str:
        """The sentence for *config* by the rules of its release, be it one of the bug or not."""
        pairs = memory if isinstance(memory, Board) else list(memory)
        return self.check(_Case(config, pairs, linear_map(config, pairs)))


@dataclass(frozen=True, slots=True)
class Defect:
    """A bug that a configuration meets, and how it shows."""

    bug: Bug
    sentence: str


def defects(config: KernelConfig, memory: Memory) -> tuple[Defect, ...]:
    """The known layout defects of *config*'s release that this board meets."""
    pairs = memory if isinstance(memory, Board) else list(memory)
    asked = (bug for bug in BUGS if bug.first <= config.release <= bug.last)
    found = (Defect(bug, bug.met(config, pairs)) for bug in asked)
    return tuple(defect for defect in found if defect.sentence)


def _vmemmap(case: _Case) -> str:
    start, end = kernel_layout(case.config).vmemmap
    zero = rule(VMEMMAP_FROM_ZERO, case.config.release)
    first = 0 if zero else case.linear.memstart
    used = start + ((case.ram_end - first) >> case.config.granule.shift) * 64
    if used <= end:
        return ""
    return (
        f"vmemmap is indexed by physical address: memory up to {case.ram_end - 1:#x} needs "
        f"{used - start:#x} bytes of the {end - start:#x} bytes at {start:#x}, "
        f"{used - end:#x} too many"
    )


def _resume(case: _Case) -> str:
    keeps = "bfi" in sequence("resume", case.config.release).text
    if keeps or not case.extended:
        return ""
    return (
        f"resume from suspend restores TCR_EL1 with T0SZ {64 - case.config.va_bits} while "
        f"TTBR0_EL1 is the ID map of T0SZ {64 - case.bits}: the next fetch faults"
    )


def _global_flag(case: _Case) -> str:
    reach = 1 << case.config.va_bits
    by_flag = rule(T0SZ_BY_FLAG, case.config.release)
    if not by_flag or case.extended or case.ram_end <= reach:
        return ""
    return (
        f"TCR_EL1.T0SZ is not written unless the kernel's own ID map is extended: a copy page in "
        f"memory from {reach:#x} to {case.ram_end - 1:#x} (hibernate) is out of reach"
    )


def _idmap_52(case: _Case) -> str:
    if case.config.va_bits != 52 or case.config.va52 or case.bits != 52:
        return ""
    return (
        "the ID map keeps T0SZ 12 on a CPU without 52-bit VAs, and KVM puts it in TCR_EL2: "
        "below the minimum of 16"
    )


def _straddle(case: _Case) -> str:
    tables = shape(case.config.granule, case.bits)
    region = covered(case.config)[0]
    edge = crossing(case.config, tables, region)
    if edge is None or not rule(ONE_ENTRY_A_LEVEL, case.config.release):
        return ""
    return (
        f"the ID map {region[0]:#x}-{region[1] - 1:#x} straddles {edge:#x} but has one entry a "
        f"level: only its first leaf is mapped"
    )


def _extra_entries(case: _Case) -> str:
    config = case.config
    two = extension(config.granule, config.va_bits_min, case.bits) is Extension.TWO_LEVELS
    if not two or extra_entries(config) <= config.granule.entries:
        return ""
    shift = shape(config.granule, config.va_bits_min).extra_shift
    return (
        f"T0SZ {64 - case.bits} needs two more levels and gets one: entry "
        f"{config.image.text >> shift} of the extra level is past the {config.granule.entries} "
        f"entries of a page"
    )


def _over_map(case: _Case) -> str:
    end, leaf = case.config.image.end, covered(case.config)[2]
    if end % leaf or not rule(END_INCLUSIVE, case.config.release):
        return ""
    return (
        f"map_memory takes the end {end:#x} as included: {leaf:#x} bytes after the image "
        f"are mapped too"
    )


def _unmap_52(case: _Case) -> str:
    page, root = case.config.image.hyp, shape(case.config.granule, case.config.va_bits)
    narrow = rule(UNMAP_NARROW, case.config.release)
    if not case.kvm or not narrow or page < 1 << root.va_bits:
        return ""
    index = page >> root.pgdir_shift
    return (
        f"teardown unmaps the HYP init page {page:#x} at root entry "
        f"{index % root.root_entries} instead of {index}"
    )


def _mmio_alias(case: _Case) -> str:
    own = rule(HYP_PRIVATE, case.config.release)
    if not case.kvm or own or case.hyp().mask >> (case.config.va_bits - 1):
        return ""
    return (
        f"HYP addresses of MMIO are kern_hyp_va of vmalloc addresses, and with the mask "
        f"{case.hyp().mask:#x} these alias the linear map"
    )


def _unaligned(case: _Case) -> str:
    page, size = case.config.image.hyp, case.config.granule.size
    if not case.kvm or page % size == 0 or rule(HYP_IDMAP_ROUNDED, case.config.release):
        return ""
    return f"the HYP init page {page:#x} is used as it is, not aligned to {size:#x}"


def _dangling(case: _Case) -> str:
    frees = rule(HYP_TABLES, case.config.release) is HypTables.MERGED
    if not case.kvm or not frees or case.config.hotplug or not runs_merged(case.config):
        return ""
    return (
        f"without CPU hotplug boot_hyp_pgd is freed after start, but entry "
        f"{case.config.image.hyp >> case.config.va_bits} of the live root still points to it"
    )


def _slot_zero(case: _Case) -> str:
    if not case.kvm:
        return ""
    meeting, page = case.overlap().meeting, case.config.image.hyp
    if meeting is Meeting.SLOT_ZERO:
        return (
            f"the ID map is extended for the kernel, but the HYP init page {page:#x} is below "
            f"{1 << case.config.va_bits:#x}: boot_hyp_pgd takes entry 0 from hyp_pgd"
        )
    if meeting is Meeting.BEYOND:
        return (
            f"the ID map is not extended, but the HYP init page {page:#x} is beyond "
            f"{1 << case.config.va_bits:#x}: it is mapped at {page % (1 << case.config.va_bits):#x}"
        )
    return ""


def _output_40(case: _Case) -> str:
    bits = rule(HYP_PS, case.config.release)
    if not case.kvm or not bits or case.ram_end <= 1 << bits:
        return ""
    return (
        f"TCR_EL2.PS says {bits} bits: a HYP table or page in memory up to {case.ram_end - 1:#x} "
        f"is an address size fault"
    )


def _hyp_overlap(case: _Case) -> str:
    if not case.kvm:
        return ""
    seen = case.overlap()
    if seen.meeting is not Meeting.INTERSECTS:
        return ""
    return (
        f"the HYP VA range {seen.first:x}:{seen.last:x} holds the IDMAP page {seen.idmap[0]:x}: "
        f"{INTERSECTION}"
    )


def _linear_52(case: _Case) -> str:
    size = linear_size(case.config)
    if not case.kvm or size <= 1 << 51:
        return ""
    return f"the linear map of {size:#x} bytes does not fit in a half of the 52-bit HYP space"


def _hyp_range(case: _Case) -> str:
    width = hyp_va_bits(case.config)
    if not case.kvm or case.config.va_bits_actual <= width:
        return ""
    return (
        f"the HYP tables translate {width} bits but HYP addresses have "
        f"{case.config.va_bits_actual}: error -34 (ERANGE)"
    )


def _layout_width(case: _Case) -> str:
    width = hyp_va_bits(case.config)
    if not case.kvm or case.hyp().va_bits == width:
        return ""
    return (
        f"HYP addresses are laid out in {case.hyp().va_bits} bits although EL2 translates {width}"
    )


def _beyond_lpa2(case: _Case) -> str:
    narrow = case.config.granule.name != "64K" and not case.config.va52
    if case.config.pa_bits != 52 or not narrow or case.ram_end <= 1 << 48:
        return ""
    return (
        f"memory up to {case.ram_end - 1:#x} is kept although LPA2 is off: PA[51:50] land in the "
        f"shareability bits of a descriptor"
    )


def _bug(name: str, first: str, last: str, fix: str, check: Callable[[_Case], str]) -> Bug:
    return Bug(name, version(first), version(last), fix, check)


BUGS: tuple[Bug, ...] = (
    _bug("vmemmap-by-pa", "4.1", "4.4", "dfd55ad85e4a", _vmemmap),
    _bug("resume-t0sz", "4.1", "4.3", "e13d918a19a7", _resume),
    _bug("t0sz-by-flag", "4.7", "5.11", "1401bef703a4", _global_flag),
    _bug("idmap-t0sz-12", "5.4", "5.11", "7ba8f2b2d652", _idmap_52),
    _bug("idmap-straddles", "3.7", "4.15", "0370b31e4845", _straddle),
    _bug("two-levels", "4.4", "5.19", "refused since 6.0", _extra_entries),
    _bug("map-one-more", "4.16", "5.14", "90268574a3e8", _over_map),
    _bug("unmap-idmap-52", "4.16", "4.16", "3ddd4556e059", _unmap_52),
    _bug("mmio-alias", "4.8", "4.16", "e3f019b37b58", _mmio_alias),
    _bug("idmap-unaligned", "4.7", "4.16", "Fix idmap size and alignment, 4.17", _unaligned),
    _bug("dangling-boot-pgd", "4.1", "4.7", "12fda8123d0c", _dangling),
    _bug("slot-zero", "4.1", "5.9", "arch/arm64/kvm/hyp/pgtable.c, 5.10", _slot_zero),
    _bug("ps-40-bits", "3.11", "4.4", "c0ef6326cac8", _output_40),
    _bug("idmap-in-hyp", "5.4", "5.5", "f5523423deda", _hyp_overlap),
    _bug("linear-52", "5.11", "5.14", "88053ec8cb1b", _linear_52),
    _bug("hyp-erange", "5.12", "6.2", "579d7ebe90a3", _hyp_range),
    _bug("hyp-layout-width", "6.9", "6.19", "8e8eb10c107e", _layout_width),
    _bug("pa-beyond-lpa2", "6.9", "6.13", "bf74bb73cd87", _beyond_lpa2),
)
"""The defects, in the order of the ID map, the HYP tables, the HYP addresses."""

"""The strategies: how the ID map and the run-time HYP tables live together at EL2.

EL2 without VHE has one TTBR and one T0SZ. Each strategy gives a `Plan`: the roots and what they
map, the switch sequence, what must be true of the CPU; or why it does not serve this board and
kernel. `ttbr.linux.realise` makes the tables and register values of a plan.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from ttbr.arch.geometry import VA
from ttbr.boards.board import Board
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import KernelConfig
from ttbr.linux.dualroot import Form
from ttbr.linux.eras import (
    HYP_PS,
    HYP_TABLES,
    HYP_WIDTH,
    KVM,
    HypTables,
    HypWidth,
    KernelVersion,
    rule,
    version,
)
from ttbr.linux.hyp import INTERSECTION, hyp_layout, intersects, runs_merged, trampoline_va
from ttbr.linux.idmap import Extension, id_map, idmap_t0sz
from ttbr.linux.layout import linear_map
from ttbr.linux.levelskip import literal, skip_with
from ttbr.linux.mappings import Section, boot_idmap, default_sections
from ttbr.linux.sequences import sequence
from ttbr.linux.strategy import Case, Plan, Regions, Root, Strategy
from ttbr.regions import Region

__all__ = ["STRATEGIES", "Plan", "other_rules", "plan", "plans", "shipped"]


def plan(
    name: str,
    config: KernelConfig,
    memory: Board | Iterable[tuple[int, int]],
    sections: Iterable[Section] = (),
    rand: int = 0,
) -> Plan:
    """The plan of strategy *name*; without *sections*, `default_sections` are mapped at EL2.

    What makes it impossible is in `Plan.why_not`. `InvalidError` for an unknown strategy and for a
    board that does not hold the kernel at all.
    """
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise InvalidError(f"strategy {name!r}: must be one of {', '.join(STRATEGIES)}")
    pairs = memory if isinstance(memory, Board) else list(memory)
    linear_map(config, pairs)
    if config.vhe and name != "vhe":
        return Plan(strategy, config, "the kernel runs at EL2")
    try:
        ruled = _ruled(strategy, config)
        linear = linear_map(ruled, pairs)
        hyp = hyp_layout(ruled, linear, rand)
        chosen = tuple(sections) or default_sections(ruled)
        return _checked(strategy.make(strategy, Case(ruled, linear, hyp, chosen)))
    except InvalidError as error:
        return Plan(strategy, config, str(error))


def _ruled(strategy: Strategy, config: KernelConfig) -> KernelConfig:
    """*config* with the nearest release whose rules the strategy is planned with."""
    first, last = strategy.rules
    release = min(max(config.release, first), last)
    try:
        return replace(config, release=release)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"known with the rules of Linux {first} to {last} only, whose kernels cannot be so: "
            f"{error}"
        ) from None


def other_rules(plan: Plan, release: KernelVersion) -> str:
    """Why *plan* follows the rules of another release than *release*, in one line; else empty."""
    used = plan.config.release
    if not plan.applicable or used == release:
        return ""
    first, last = plan.strategy.rules
    return (
        f"{plan.strategy.name} is planned with the rules of Linux {used}, not of {release}: "
        f"it needs those of {first} to {last}"
    )


def _checked(plan: Plan) -> Plan:
    """*plan*, or why its registers cannot work on this CPU or for these addresses."""
    config, widest = plan.config, max((root.bits for root in plan.roots), default=0)
    if not plan.applicable or not widest:
        return plan
    if widest > 48 and config.va_bits == 52 and not config.va52:
        return replace(
            plan,
            why_not=f"T0SZ {64 - widest} on a CPU without 52-bit VAs: below the minimum of 16",
        )
    bits = rule(HYP_PS, config.release)
    last = max(r.pa + r.size - 1 for root in plan.roots for r in root.regions)
    if bits and last >> bits:
        return replace(
            plan,
            why_not=f"TCR_EL2.PS says {bits} bits in Linux {config.release}, and {last:#x} is "
            f"beyond: an address size fault (since 4.5 it is the CPU's)",
        )
    return plan


def shipped(config: KernelConfig) -> str:
    """The name of the strategy that the release of *config* runs with, whether it works or not.

    Before KVM that is the one that KVM began with.
    """
    if config.vhe:
        return "vhe"
    if config.release not in KVM:
        return "separate"
    if runs_merged(config):
        return "merged-root"
    match rule(HYP_TABLES, config.release):
        case HypTables.BOOT_AND_RUNTIME | HypTables.MERGED:
            return "separate"
        case HypTables.SINGLE:
            return "single-split"
    wide = rule(HYP_WIDTH, config.release) is not HypWidth.AT_LEAST_48
    return "wide-hyp" if wide else "always-48"


def plans(
    config: KernelConfig,
    memory: Board | Iterable[tuple[int, int]],
    sections: Iterable[Section] = (),
    rand: int = 0,
) -> tuple[Plan, ...]:
    """The plans of all strategies, for comparison."""
    pairs = memory if isinstance(memory, Board) else list(memory)
    chosen = tuple(sections)
    return tuple(plan(name, config, pairs, chosen, rand) for name in STRATEGIES)


def _refuse_extended(case: Case, why: str) -> None:
    page = case.idmap.va + case.idmap.size
    if case.bits > case.narrow or page > 1 << case.narrow:
        raise UnsupportedError(
            f"the ID map needs {max(case.bits, (page - 1).bit_length())} bits "
            f"(T0SZ {64 - max(case.bits, (page - 1).bit_length())}), the run-time tables have "
            f"{case.narrow} (T0SZ {64 - case.narrow}): {why}"
        )


def _need_slot(case: Case) -> None:
    if case.extension is not Extension.EXTRA_LEVEL:
        raise UnsupportedError(
            f"the ID map has no extra level (extension: {case.extension.value}), so there is no "
            f"root above the two trees"
        )
    if not case.slot:
        raise UnsupportedError(
            f"the HYP init page {case.idmap.va:#x} is below {1 << case.config.va_bits_min:#x}: its "
            f"slot would be 0, which the HYP tables have"
        )


def _refuse_overlap(regions: Regions, others: Regions) -> None:
    for one in regions:
        for other in others:
            if one.va <= other.last and other.va <= one.last:
                raise UnsupportedError(f"{one} overlaps {other}")


def _separate(strategy: Strategy, case: Case) -> Plan:
    _refuse_extended(case, "both trees must have one T0SZ")
    page = case.config.granule.size
    code = case.idmap
    trampoline = Region(
        VA(trampoline_va(case.config)), code.pa, page, code.attributes, "trampoline"
    )
    _refuse_overlap((trampoline,), (code, *case.runtime))
    return Plan(
        strategy,
        case.config,
        roots=(
            Root("boot", case.narrow, (code, trampoline)),
            Root("run time", case.narrow, (trampoline, *case.runtime)),
        ),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("hyp-init-trampoline"),
        boot_t0sz=64 - case.narrow,
        run_t0sz=64 - case.narrow,
        runtime=trampoline.va,
        room=1 << (case.narrow - 1),
        needs=("table descriptors of both roots may be cached together without a TLB conflict",),
    )


def _one(strategy: Strategy, case: Case, bits: int, regions: Regions, *needs: str) -> Plan:
    """One root, used from the first instruction on."""
    return Plan(
        strategy,
        case.config,
        roots=(Root("HYP", bits, regions),),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("hyp-init"),
        boot_t0sz=64 - bits,
        run_t0sz=64 - bits,
        runtime=case.page_va,
        room=case.room,
        needs=(*needs, *_wide_needs(case, bits)),
    )


def _wide_needs(case: Case, bits: int) -> tuple[str, ...]:
    if bits <= 48:
        return ()
    return ("FEAT_LVA" if case.config.granule.name == "64K" else "FEAT_LPA2",)


def _shared(strategy: Strategy, case: Case) -> Plan:
    _need_slot(case)
    mapped = _kernel_idmap(case)
    return _one(
        strategy,
        case,
        case.bits,
        (*mapped, *case.runtime),
        "descriptors that mean the same at EL1 and EL2: AP[1] is RES1 at EL2 and EL0 access at EL1",
        "no secret in HYP mappings: the kernel's ID map shows them all",
    )


def _kernel_idmap(case: Case) -> Regions:
    """The kernel's ID map as EL2 sees it, and the HYP init page where that does not have it."""
    page = case.idmap
    regions = tuple(
        Region(r.va, r.pa, r.size, r.attributes.replace(user=None), r.name)
        for r in boot_idmap(case.config)
    )
    if any(r.va <= page.va and page.last <= r.last for r in regions):
        return regions
    return (*regions, page)


def _merged(strategy: Strategy, case: Case) -> Plan:
    _need_slot(case)
    return _one(strategy, case, case.bits, (case.idmap, *case.runtime))


def _dedicated(strategy: Strategy, case: Case) -> Plan:
    _need_slot(case)
    boot = _kernel_idmap(case)
    return Plan(
        strategy,
        case.config,
        roots=(
            Root("kernel's ID map", case.bits, boot),
            # With the same leaves: a page and a block of one address would be a TLB conflict.
            Root("run time", case.bits, (*boot, *case.runtime)),
        ),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("hyp-init-dedicated"),
        boot_t0sz=64 - case.bits,
        run_t0sz=64 - case.bits,
        runtime=case.idmap.va,
        room=case.room,
        needs=("table descriptors of both roots may be cached together without a TLB conflict",),
    )


def _mmu_off(strategy: Strategy, case: Case) -> Plan:
    """The code that turns the MMU on again is at VA = PA, so the run-time root has it too."""
    code = case.idmap
    inside = code.last < 1 << case.narrow
    bits = case.narrow if inside else max(case.bits, code.last.bit_length())
    _refuse_intersection(case)
    _refuse_overlap((code,), case.runtime)
    same = bits == case.bits and case.config.release >= version("5.13")
    return Plan(
        strategy,
        case.config,
        roots=(
            Root("boot", max(case.bits, code.last.bit_length()), (code,)),
            Root("run time", bits, (code, *case.runtime)),
        ),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("pkvm-switch" if same else "mmu-off"),
        boot_t0sz=64 - max(case.bits, code.last.bit_length()),
        run_t0sz=64 - bits,
        runtime=case.page_va,
        room=case.room,
        needs=_wide_needs(case, max(bits, case.bits)),
    )


def _mmu_off_narrow(strategy: Strategy, case: Case) -> Plan:
    """Run-time tables of VA_BITS whatever the ID map needs; its tables show what happens."""
    code = case.idmap
    if code.last < 1 << case.narrow:
        raise UnsupportedError(
            f"{code} is within the {case.narrow} bits of the run-time tables: the same as mmu-off"
        )
    _refuse_intersection(case)
    return Plan(
        strategy,
        case.config,
        why_not=f"the code that turns the MMU on again, {code}, is above 2^{case.narrow}: the next "
        f"instruction is a translation fault",
        roots=(
            Root("boot", max(case.bits, code.last.bit_length()), (code,)),
            Root("run time", case.narrow, case.runtime),
        ),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("mmu-off"),
        boot_t0sz=64 - max(case.bits, code.last.bit_length()),
        run_t0sz=64 - case.narrow,
        runtime=case.page_va,
    )


def _refuse_intersection(case: Case) -> None:
    if intersects(case.hyp):
        raise UnsupportedError(
            f"{INTERSECTION}: IDMAP page {case.hyp.idmap[0]:x}, "
            f"HYP VA range {case.hyp.first:x}:{case.hyp.last:x}"
        )


def _single_split(strategy: Strategy, case: Case) -> Plan:
    wider = case.extension is Extension.WIDER_ROOT
    if wider:
        # fa2a8445b1d3: the same root, indexed with idmap_ptrs_per_pgd.
        if case.idmap.last >> case.bits:
            raise UnsupportedError(f"{case.idmap} is beyond the {case.bits} bits of the ID map")
    else:
        _refuse_extended(case, "one table of that size cannot hold both")
    _refuse_intersection(case)
    bits = case.bits if wider else case.narrow
    return _one(strategy, case, bits, (case.idmap, *case.runtime))


def _wide(strategy: Strategy, case: Case) -> Plan:
    bits = case.hyp.hyp_va_bits
    if case.config.va_bits_actual > bits or case.idmap.last >> bits:
        raise UnsupportedError(
            f"HYP tables of {bits} bits do not hold {case.config.va_bits_actual}-bit HYP addresses "
            f"and the HYP init page {case.idmap.va:#x}: error -34 (ERANGE)"
        )
    _refuse_intersection(case)
    return _one(strategy, case, bits, (case.idmap, *case.runtime))


def _always_48(strategy: Strategy, case: Case) -> Plan:
    why = id_map(case.config).why_not
    if why:
        raise UnsupportedError(why)
    return _wide(strategy, case)


def _vhe(strategy: Strategy, case: Case) -> Plan:
    if not case.config.vhe:
        raise UnsupportedError("the kernel does not run at EL2: it needs FEAT_VHE, HCR_EL2.E2H = 1")
    return Plan(
        strategy,
        case.config,
        sections=case.runtime,
        hyp=case.hyp,
        sequence=sequence("enter-vhe", max(case.config.release, version("5.12"))),
        boot_t0sz=idmap_t0sz(case.config),
        run_t0sz=64 - case.narrow,
        runtime=case.linear.to_virt(case.config.image.hyp),
        needs=("FEAT_VHE",),
    )


def _row(
    name: str,
    shipped: tuple[str, str] | None,
    rules: tuple[str, str],
    make: Callable[[Strategy, Case], Plan],
    idea: str,
) -> Strategy:
    dates = None if shipped is None else (version(shipped[0]), version(shipped[1]))
    return Strategy(name, idea, dates, (version(rules[0]), version(rules[1])), make)


_LAST = "7.0"
STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        _row(
            "separate", ("3.11", "4.7"), ("3.11", "4.7"), _separate,
            "boot and run-time roots share a trampoline page; TTBR switched with the MMU on",
        ),
        _row(
            "shared-idmap", None, ("4.1", "5.9"), _shared,
            "the kernel's extended ID map for both roles, HYP mappings in its low slot",
        ),
        _row(
            "merged-root", ("4.1", "5.9"), ("4.1", "5.9"), _merged,
            "an extra-level root: [0] to the HYP tables, [idmap >> VA_BITS] to those of the ID map",
        ),
        _row(
            "dedicated-root", None, ("4.1", "5.9"), _dedicated,
            "a HYP root with the extra level, switched to on a page that both trees map alike",
        ),
        _row(
            "level-skip", None, ("4.8", _LAST), literal,
            "one root under two values of T0SZ, its entry 0 to a level 2 table, HYP_PAGE_OFFSET 0",
        ),
        _row(
            "level-skip-v1", None, ("5.6", _LAST), skip_with(Form.ROOT_SELF),
            "the root's entry 0 refers to the root",
        ),
        _row(
            "level-skip-v2", None, ("5.6", _LAST), skip_with(Form.CHILD_SELF),
            "the root's entry 0 refers to a table whose entry 0 refers to itself",
        ),
        _row(
            "level-skip-v3", None, ("5.6", _LAST), skip_with(Form.LINEAR_BLOCK),
            "a block descriptor of two sizes, one linear window from address 0",
        ),
        _row(
            "level-skip-v4", None, ("5.6", _LAST), skip_with(Form.LAST_BLOCK),
            "a level 3 table whose entry 0 is the block that the longer walk reads",
        ),
        _row(
            "mmu-off", ("5.13", _LAST), ("4.17", _LAST), _mmu_off,
            "TTBR and T0SZ replaced with the MMU off, from the ID map",
        ),
        _row(
            "mmu-off-narrow", None, ("4.17", _LAST), _mmu_off_narrow,
            "the same, with run-time tables of VA_BITS",
        ),
        _row(
            "single-split", ("4.8", "5.9"), ("4.8", _LAST), _single_split,
            "one table, the ID map in one half of the HYP space and the linear map in the other",
        ),
        _row(
            "wide-hyp", ("5.10", "6.8"), ("5.10", "6.8"), _wide,
            "one table with at least the ID map's bits",
        ),
        _row(
            "always-48", ("6.9", _LAST), ("6.9", _LAST), _always_48,
            "HYP tables always have 48 bits, or the 52 of VA_BITS, with 48 for the ID map",
        ),
        _row("vhe", ("4.6", _LAST), ("4.6", _LAST), _vhe, "the kernel runs at EL2, with two TTBRs"),
    )
}  # fmt: skip
"""The strategies by name, in the order in which they came up."""

"""Level-skip: one root under two values of T0SZ, switched in a window that both walk alike.

The HYP init code jumps from its ID map address to a low address, writes TCR_EL2 with the larger
T0SZ there, and so gets rid of the level that only the ID map needs.
"""

from collections.abc import Callable
from dataclasses import replace

from ttbr.arch.geometry import PA, VA
from ttbr.build import Arena, Attributes
from ttbr.errors import UnsupportedError
from ttbr.linux.dualroot import LITERAL, Form, dual_root
from ttbr.linux.idmap import Extension, extension
from ttbr.linux.layout import shape
from ttbr.linux.strategy import Case, Plan, Regions, Root, Strategy
from ttbr.regions import Region

__all__ = ["literal", "skip_with"]


def literal(strategy: Strategy, case: Case) -> Plan:
    """Level-skip as it was first worded, which cannot work; its tables show what happens.

    HYP addresses start at 0 and the extended root's entry 0 refers to a level 2 table: one tree of
    pages, walked as it is with one level more.
    """
    plan = _level_skip(strategy, case, Form.AS_WORDED)
    return replace(plan, why_not=LITERAL)


def skip_with(form: Form) -> Callable[[Strategy, Case], Plan]:
    """What makes a plan with the tables of *form*."""

    def make(strategy: Strategy, case: Case) -> Plan:
        return _level_skip(strategy, case, form)

    return make


def _level_skip(strategy: Strategy, case: Case, form: Form) -> Plan:
    """One root under two values of T0SZ; the switch happens in a window that both walk alike."""
    narrow = case.narrow
    bits = _wide_bits(case.idmap.last.bit_length(), narrow)
    if extension(case.config.granule, narrow, bits) not in (
        Extension.EXTRA_LEVEL,
        Extension.TWO_LEVELS,
    ):
        raise UnsupportedError(
            f"the ID map ({bits} bits) starts at the same level as the run-time tables ({narrow} "
            f"bits): there is no level to skip"
        )
    window, rest = _window(case, form)
    g, end = case.config.granule, case.config.image.end
    # Not every board has room for the entries that the form takes: find out now.
    dual_root(
        g,
        64 - bits,
        64 - narrow,
        window,
        arena=Arena.at(-(-end // g.size) * g.size, g),
        runtime=rest,
        idmap=(case.idmap,),
        form=form,
    )
    needs = ["TCR_EL2.HA = 0: tables seen as pages must fault for their access flag"]
    if form in (Form.LINEAR_BLOCK, Form.LAST_BLOCK):
        needs.append("FEAT_BBM level 2 without conflict aborts: the leaf's size changes with T0SZ")
    return Plan(
        strategy,
        case.config,
        roots=(Root("HYP", narrow, rest), Root("ID map", bits, (case.idmap,))),
        sections=case.runtime,
        hyp=case.hyp,
        sequence=case.sequence("hyp-init-level-skip"),
        boot_t0sz=64 - bits,
        run_t0sz=64 - narrow,
        runtime=window.va + case.config.image.hyp - window.pa,
        skip=form,
        window=window,
        room=1 << (narrow - 1),
        needs=tuple(needs),
    )


def _wide_bits(needed: int, narrow: int) -> int:
    """The ID map's input size: the least from *needed* up whose T0SZ mixes well with the other.

    A stale TCR field may read as a mix of its old and new bits (K1.2.3). Each mix must be a T0SZ
    that translates the window: none above the larger of the two, none below 16.
    """
    b = 64 - narrow
    for bits in range(needed, 49):
        a = 64 - bits
        if (a | b) <= b and (a & b) >= 16:
            return bits
    return needed


def _window(case: Case, form: Form) -> tuple[Region[Attributes], Regions]:
    """The window for the switch, and the other run-time regions."""
    code, g = case.idmap, case.config.granule
    if form is Form.ROOT_SELF:
        for region in case.runtime:
            if region.pa <= code.pa < region.pa + region.size:
                return region, tuple(r for r in case.runtime if r != region)
        raise UnsupportedError(f"{code} is in no section that EL2 maps")
    if form is Form.AS_WORDED:
        regions = _from_zero(case)
        window = next(r for r in regions if r.pa <= code.pa < r.pa + r.size)
        return window, tuple(r for r in regions if r != window)
    # The low forms put the page at a low address of its own.
    reach = _reach(case, form)
    if form is Form.LINEAR_BLOCK:
        base = code.pa & -reach
        if not any(start <= base and base + reach <= end for start, end in case.linear.ram):
            raise UnsupportedError(
                f"the block {base:#x}-{base + reach - 1:#x} around the HYP init page is not all RAM"
            )
        return Region(VA(0), PA(base), reach, Attributes(access="rwx"), "window"), case.runtime
    va = code.pa & (reach - 1)
    below = g.entry_size(shape(g, case.narrow).root_level + 1)
    if form is Form.CHILD_SELF and va < below:
        va += below  # what the child's own entry 0 maps is not usable
    return Region(VA(va), code.pa, g.size, code.attributes, "HYP init page"), case.runtime


def _from_zero(case: Case) -> Regions:
    """The run-time regions with HYP_PAGE_OFFSET 0."""
    return tuple(
        Region(VA(r.pa - case.linear.memstart), r.pa, r.size, r.attributes, r.name)
        for r in case.runtime
    )


def _reach(case: Case, form: Form) -> int:
    """What root entry 0 maps, or for the last form what entry 0 of a level 2 table does."""
    g = case.config.granule
    if form is Form.LAST_BLOCK:
        return g.entry_size(2)
    return g.entry_size(shape(g, case.narrow).root_level)

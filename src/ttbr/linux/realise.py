"""From a plan to tables in memory, register values, and the numbers by which plans compare."""

from dataclasses import dataclass
from typing import TypedDict

from ttbr.arch.features import PA_BITS
from ttbr.arch.regime import EL2
from ttbr.arch.registers import REGISTERS
from ttbr.build import Arena, Mair, Tables, build, estimate, table_params
from ttbr.errors import InvalidError
from ttbr.linux.dualroot import Exposure, dual_root, exposures
from ttbr.linux.eras import HYP_PS, rule
from ttbr.linux.layout import shape
from ttbr.linux.strategy import Plan
from ttbr.record import replace as record_replace
from ttbr.walk import TableCount, runs

__all__ = ["Numbers", "Realised", "measure", "realise", "table_base", "table_format"]


@dataclass(frozen=True, slots=True)
class Realised:
    """A plan's tables and values.

    `tables` are in the order of the plan's roots; level-skip has one, under two values of T0SZ.
    `registers` is the EL2 register file for the first root with the MMU still as the sequence
    expects it. `values` are what `Sequence.inputs` names; `entry` is the physical address of the
    sequence, `run_offset` by how much higher it is seen at run time.
    """

    plan: Plan
    tables: tuple[Tables, ...]
    registers: dict[str, int]
    values: dict[str, int]
    entry: int
    run_offset: int
    exposures: tuple[Exposure, ...] = ()


@dataclass(frozen=True, slots=True)
class Numbers:
    """The comparison of a plan.

    `tables` are those that walks from its roots read; `extra_tables` says how many more than two
    trees of VA_BITS need, one for the run-time mappings and one for the page of the ID map.
    `levels` is the length of a walk at run time. `junk` is what either walk reaches that nobody
    asked for, tables that fault for their access flag not counted.
    """

    tables: int
    extra_tables: int
    levels: int
    t0sz: tuple[int, ...]
    junk: tuple[Exposure, ...]
    room: int | None


def _need_roots(plan: Plan) -> None:
    if not plan.roots:
        why = plan.why_not or "it has no tables of its own"
        raise InvalidError(f"{plan.strategy.name}: {why}")


class _Format(TypedDict):
    ds: bool
    lpa: bool
    output_bits: int | None


def table_format(plan: Plan) -> _Format:
    """The descriptor format and output size of the plan's tables."""
    widest = max(root.bits for root in plan.roots) > 48 or plan.config.pa_bits == 52
    is_64k = plan.config.granule.name == "64K"
    bits = rule(HYP_PS, plan.config.release)
    return {
        "ds": widest and not is_64k,
        "lpa": widest and is_64k,
        # What is beyond is refused as a plan, but its tables show the fault.
        "output_bits": bits if bits and not _end(plan) >> bits else None,
    }


def _end(plan: Plan) -> int:
    """The end of what the plan maps, in physical memory."""
    return max((r.pa + r.size for root in plan.roots for r in root.regions), default=0)


def _with_ps(plan: Plan, tcr: int) -> int:
    """*tcr* with the output size that the release writes, where that is a fixed one."""
    bits = rule(HYP_PS, plan.config.release)
    ps = next((value for value, width in PA_BITS.items() if width == bits), None)
    return tcr if ps is None else REGISTERS["TCR_EL2"]["PS"].put(tcr, ps)


def table_base(plan: Plan) -> int:
    """Where the tables of *plan* are put when nobody says: after the kernel image."""
    return -(-plan.config.image.end // (2 << 20)) * (2 << 20)


def realise(plan: Plan, arena: Arena) -> Realised:
    """The tables of *plan* in *arena*; `InvalidError` where it has none.

    A plan that cannot work may have tables all the same, to show that it does not.
    """
    _need_roots(plan)
    if plan.skip is not None:
        return _realise_skip(plan, arena)
    mair = Mair()
    g, form = plan.config.granule, table_format(plan)
    tables = tuple(
        build(root.regions, table_params(EL2, g, root.bits, **form), arena=arena, mair=mair)
        for root in plan.roots
    )
    return _finish(plan, tables, tables[0].registers, tables[-1].registers)


def _realise_skip(plan: Plan, arena: Arena) -> Realised:
    assert plan.window is not None
    runtime, idmap = (root.regions for root in plan.roots)
    dual = dual_root(
        plan.config.granule,
        plan.boot_t0sz,
        plan.run_t0sz,
        plan.window,
        arena=arena,
        runtime=runtime,
        idmap=idmap,
        form=plan.skip,
    )
    run = dual.tables.registers
    boot = Tables(dual.wide, dual.tables.mair, arena).registers
    return _finish(plan, (dual.tables,), boot, run, exposures(dual))


def _finish(
    plan: Plan,
    tables: tuple[Tables, ...],
    boot: dict[str, int],
    run: dict[str, int],
    exposed: tuple[Exposure, ...] = (),
) -> Realised:
    assert plan.sequence is not None
    entry = plan.config.image.hyp
    offset = plan.runtime - entry
    target = plan.sequence.target
    boot, run = ({**r, "TCR_EL2": _with_ps(plan, r["TCR_EL2"])} for r in (boot, run))
    values = {
        "boot_ttbr0": boot["TTBR0_EL2"],
        "run_ttbr0": run["TTBR0_EL2"],
        "tcr": boot["TCR_EL2"],
        "run_tcr": run["TCR_EL2"],
        "mair": boot["MAIR_EL2"],
        "sctlr": boot["SCTLR_EL2"],
        "run_target": plan.runtime + 4 * target,
        "vectors": plan.runtime & -2048,
        "stack": _stack(plan),
    }
    registers = dict(boot)
    if not plan.sequence.mmu:
        # Nothing is written yet: the sequence has to do it.
        registers |= {"TTBR0_EL2": 0, "TCR_EL2": 0, "MAIR_EL2": 0}
        registers["SCTLR_EL2"] &= ~1
    return Realised(plan, tables, registers, values, entry, offset, exposed)


def _stack(plan: Plan) -> int:
    """The end of the highest writable run-time region."""
    writable = [r for root in plan.roots for r in root.regions if "w" in r.attributes.access]
    return max((r.va + r.size for r in writable), default=0)


def measure(plan: Plan) -> Numbers:
    """The numbers of *plan*; `InvalidError` where it is not applicable."""
    if plan.applicable and not plan.roots:
        bits = plan.config.va_bits_actual
        levels = shape(plan.config.granule, bits).levels
        t0sz = tuple(dict.fromkeys((plan.boot_t0sz, plan.run_t0sz)))
        return Numbers(0, 0, levels, t0sz, (), plan.room)
    _need_roots(plan)
    made = realise(plan, Arena.at(_scratch(plan), plan.config.granule))
    tables = len(_reached(made))
    junk = tuple(e for e in made.exposures if e.what != "access flag")
    return Numbers(
        tables,
        tables - _plain(plan),
        shape(plan.config.granule, 64 - plan.run_t0sz).levels,
        tuple(dict.fromkeys((plan.boot_t0sz, plan.run_t0sz))),
        junk,
        plan.room,
    )


def _scratch(plan: Plan) -> int:
    """A place for tables that only the numbers need."""
    return plan.config.image.end & -plan.config.granule.size


def _reached(made: Realised) -> set[int]:
    """The tables that a walk from any of the roots reads."""
    found: set[int] = set()
    pages = made.tables[0].pages().keys()
    params = [tables.params for tables in made.tables]
    if made.plan.skip is not None:
        g = made.plan.config.granule
        wide = table_params(EL2, g, 64 - made.plan.boot_t0sz, **table_format(made.plan))
        params.append(record_replace(wide, root=made.tables[0].root))
    for p in params:
        count = TableCount()
        for _ in runs(made.tables[0].memory(), p, count=count):
            pass
        found |= count.tables.keys() & pages
    return found


def _plain(plan: Plan) -> int:
    """Tables of two trees of VA_BITS: the run-time mappings, and one page for the ID map.

    From 7.0 the run-time mappings are laid out in 48 bits, whatever VA_BITS is.
    """
    g = plan.config.granule
    bits = max(plan.config.va_bits_actual, *(r.last.bit_length() for r in plan.sections))
    runtime = estimate(plan.sections, table_params(EL2, g, bits, **table_format(plan))).total
    return runtime + shape(g, bits).levels

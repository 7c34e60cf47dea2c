"""The catalogue: known ways to change translation, right and wrong, each as a problem.

A row gives its verdict kinds, none when it is safe. `drop` names assumptions that do not hold for
it. EL2 rows are about the run-time HYP tables and the ID map, EL1 rows about the kernel's.
"""

from collections.abc import Callable
from dataclasses import dataclass

from switch_tables import (
    CONT,
    M_ON,
    MAIR,
    NC,
    NG,
    UXN,
    WB,
    Arena,
    Trace,
    block,
    page,
    tcr1,
    tcr2,
)
from ttbr.arch.attributes import PR, PW, PX
from ttbr.arch.features import Features
from ttbr.switch.problem import A_CTRL, A_DSB, A_IC, Environment, Intent, Options, Problem

RW, RX, RWX = PR | PW, PR | PX, PR | PW | PX
K4, M2 = 1 << 12, 1 << 21


@dataclass(frozen=True)
class Row:
    name: str
    make: Callable[[], Problem]
    kinds: frozenset[str]


ROWS: dict[str, Row] = {}


def row(name: str, *kinds: str) -> Callable[[Callable[[], Problem]], Callable[[], Problem]]:
    def add(make: Callable[[], Problem]) -> Callable[[], Problem]:
        ROWS[name] = Row(name, make, frozenset(kinds))
        return make

    return add


# --- EL2: HYP ---------------------------------------------------------------------------------

LOW = 0x8000_1000  # code below 512 GB
HIGH = 0x80_8000_1000  # code at 514 GB: AMD Seattle
RUN = 0x40_0000_1000  # the same code in the run-time map (HYP_PAGE_OFFSET 2^38)
DATA, DATA_PA = 0x40_0020_0000, 0x80_9000_0000
TRAMPOLINE = 0x7F_FFFF_F000


def hyp_registers(ttbr: int = 0, tcr: int = 0, on: bool = False, **more: int) -> dict[str, int]:
    sctlr = M_ON if on else 0x1004
    base = {"TTBR0_EL2": ttbr, "TCR_EL2": tcr, "SCTLR_EL2": sctlr, "MAIR_EL2": MAIR if on else 0}
    return base | more


def hyp_problem(
    arena: Arena, registers: dict[str, int], trace: Trace, *intent: Intent, **more: object
) -> Problem:
    return Problem(arena.memory(), arena.extents, registers, trace.done, intent, **more)  # type: ignore[arg-type]


def wide_tables(low: int = HIGH, bits: int = 40) -> tuple[Arena, int]:
    """One root with an extra level: the ID map of the code page, and the run-time map."""
    arena = Arena()
    root = arena.table()
    arena.map(root, low, low, bits)
    arena.map(root, RUN, low, bits)
    arena.map(root, DATA, DATA_PA, bits)
    return arena, root


def hyp_intent(low: int = HIGH, **more: bool) -> tuple[Intent, ...]:
    return (
        Intent(low & -K4, K4, low & -K4, permissions=RX, **more),  # type: ignore[arg-type]
        Intent(RUN & -K4, K4, low & -K4, permissions=RX),
        Intent(DATA, K4, DATA_PA, permissions=RW),
    )


def hyp_init(root: int, tcr: int, pc: int) -> Trace:
    """KVM's hyp-init: registers, ISB, TLBI, DSB, M=1, ISB."""
    t = Trace(pc).msr("TTBR0_EL2", root).msr("TCR_EL2", tcr).msr("MAIR_EL2", MAIR).isb()
    return t.tlbi("ALLE2").dsb("SY").msr("SCTLR_EL2", M_ON).isb()


def single_root(merged: bool, options: Options) -> Problem:
    bits, t0sz = 40, 24
    if merged:
        arena = Arena()
        root, hyp, boot = arena.table(), arena.table(), arena.table()
        arena.put(root, hyp | 3)
        arena.put(root + 8 * (HIGH >> 39), boot | 3)
        arena.map(boot, HIGH & (1 << 39) - 1, HIGH, 39)
        arena.map(hyp, RUN, HIGH, 39)
        arena.map(hyp, DATA, DATA_PA, 39)
    else:
        arena, root = wide_tables(bits=bits)
    trace = hyp_init(root, tcr2(t0sz), HIGH).br(RUN).nop().ldr(DATA)
    return hyp_problem(arena, hyp_registers(), trace, *hyp_intent(), options=options)


@row("S01")
def shared_root() -> Problem:
    return single_root(False, Options())


@row("S01b", "UNKNOWN-TLB")
def shared_root_strict() -> Problem:
    return single_root(False, Options().without(A_DSB))


@row("S02")
def merged_root() -> Problem:
    return single_root(True, Options())


def two_trees(code: int = LOW, new_bits: int = 39) -> tuple[Arena, int, int]:
    """An old tree under which the code runs at its ID map, and the run-time tree.

    The old tree maps the run-time address elsewhere, so that what is left of it is noticed.
    """
    arena = Arena()
    old, new = arena.table(), arena.table()
    old_bits = 40 if code >> 39 else 39
    arena.map(old, code, code, old_bits)
    arena.map(old, RUN, 0x9_0000_0000, old_bits)
    if not code >> new_bits:
        arena.map(new, code, code, new_bits)
    arena.map(new, RUN, code, new_bits)
    arena.map(new, DATA, DATA_PA, new_bits)
    return arena, old, new


def off_in_between(code: int, tcr: int | None) -> tuple[Trace, Arena, dict[str, int]]:
    """pKVM: M=0, ISB, TLBI, TTBR (and TCR), DSB, ISB, M=1, ISB."""
    arena, old, new = two_trees(code)
    old_tcr = tcr2(24 if code >> 39 else 25)
    t = Trace(code).msr("SCTLR_EL2", 0x1004).isb().tlbi("ALLE2").msr("TTBR0_EL2", new)
    if tcr is not None:
        t.msr("TCR_EL2", tcr)
    t.dsb("NSH").isb().msr("SCTLR_EL2", M_ON)
    return t, arena, hyp_registers(old, old_tcr, on=True)


@row("S03")
def mmu_off() -> Problem:
    trace, arena, registers = off_in_between(LOW, None)
    trace.isb().br(RUN).nop().ldr(DATA)
    return hyp_problem(arena, registers, trace, *hyp_intent(LOW))


@row("S04", "FAULT")
def mmu_off_high() -> Problem:
    trace, arena, registers = off_in_between(HIGH, tcr2(25))
    trace.isb().br(RUN).nop()
    return hyp_problem(arena, registers, trace, *hyp_intent(HIGH))


@row("S04b")
def vectored_enable() -> Problem:
    trace, arena, registers = off_in_between(HIGH, tcr2(25))
    trace.fault(2, RUN, isb=True).nop().ldr(DATA)
    options = Options().without(A_IC, A_CTRL, A_DSB)
    return hyp_problem(arena, registers, trace, *hyp_intent(HIGH, fault=True), options=options)


def level_skip(va: int, descriptor: Callable[[int], int], code_pa: int) -> tuple[Arena, int]:
    """The literal level skip: root[0] points to the level 2 table of a 3-level HYP tree at VA 0."""
    arena = Arena()
    root = arena.table()
    arena.map(root, HIGH, HIGH, 48)
    level2, level3 = arena.table(), arena.table()
    arena.put(root, level2 | 3)
    arena.put(level2 + 8 * (va >> 21), level3 | 3)
    arena.put(level3 + 8 * (va >> 12 & 511), descriptor(code_pa))
    return arena, root


def skip_problem(arena: Arena, root: int, va: int, pa: int) -> Problem:
    trace = hyp_init(root, tcr2(16), HIGH).br(va).msr("TCR_EL2", tcr2(25)).isb()
    trace.tlbi("ALLE2").dsb("NSH").isb().nop()
    intent = (Intent(HIGH & -K4, K4, HIGH & -K4), Intent(va & -K4, K4, pa & -K4))
    return hyp_problem(arena, hyp_registers(), trace, *intent)


@row("S05", "FAULT")
def skip_literal() -> Problem:
    return skip_problem(*level_skip(0x20_1000, page, LOW), 0x20_1000, LOW)


@row("S05b", "JUNK-WALK")
def skip_page_zero() -> Problem:
    return skip_problem(*level_skip(0, page, LOW), 0, LOW)


@row("S05c", "FAULT")
def skip_block_in_last_table() -> Problem:
    return skip_problem(*level_skip(0, block, 0x8000_0000), 0, 0x8000_0000)


@row("S06", "FAULT")
def skip_blocks() -> Problem:
    arena = Arena()
    root, level2 = arena.table(), arena.table()
    arena.map(root, HIGH, HIGH, 48)
    arena.put(root, level2 | 3)
    arena.put(level2 + 8, block(0x8020_0000))
    return skip_problem(arena, root, 0x20_0000, 0x8020_0000)


def repaired_skip(options: Options, tlbi: bool = True, at_id_map: bool = False) -> Problem:
    """root[0] -> root: the walk of 4 levels repeats the root, then does what 3 levels do."""
    arena = Arena()
    root = arena.table()
    arena.map(root, HIGH, HIGH, 40)
    arena.put(root, root | 3)
    arena.map(root, RUN, HIGH, 39)
    arena.map(root, DATA, DATA_PA, 39)
    trace = hyp_init(root, tcr2(24), HIGH)
    if not at_id_map:
        trace.br(RUN)
    trace.msr("TCR_EL2", tcr2(25)).isb()
    if tlbi:
        trace.tlbi("ALLE2").dsb("NSH").isb()
    if at_id_map:
        trace.br(RUN)
    trace.nop().ldr(DATA)
    if not options.assumptions >= {A_DSB}:
        at = next(i for i, s in enumerate(trace.steps) if s.text.startswith("msr SCTLR"))
        trace.steps.insert(at, Trace(trace.steps[at].pc).isb().steps[0])
    return hyp_problem(arena, hyp_registers(), trace, *hyp_intent(), options=options)


@row("S08")
def repaired() -> Problem:
    return repaired_skip(Options().without(A_IC))


@row("S08b")
def repaired_sticky() -> Problem:
    return repaired_skip(Options().without(A_IC, A_CTRL))


@row("S08c")
def repaired_without_tlbi() -> Problem:
    return repaired_skip(Options().without(A_IC), tlbi=False)


@row("S08d", "FAULT")
def repaired_at_id_map() -> Problem:
    return repaired_skip(Options(), at_id_map=True)


def naive(*changes: str) -> Problem:
    """Old tree of 4 levels, new tree of 3, the code page at the same address in both."""
    arena = Arena()
    old, new = arena.table(), arena.table()
    arena.map(old, LOW, LOW, 48)
    arena.map(new, LOW, LOW, 39)
    trace = Trace(LOW)
    for change in changes:
        if change == "ttbr":
            trace.msr("TTBR0_EL2", new)
        elif change == "tcr":
            trace.msr("TCR_EL2", tcr2(25))
        elif change == "isb":
            trace.isb()
        else:
            trace.tlbi("ALLE2").dsb("NSH").isb()
    registers = hyp_registers(old, tcr2(16), on=True)
    return hyp_problem(arena, registers, trace.nop(), Intent(LOW & -K4, K4, LOW & -K4))


@row("S10", "FAULT")
def naive_ttbr_first() -> Problem:
    return naive("ttbr", "tcr", "isb")


@row("S11", "FAULT")
def naive_tcr_first() -> Problem:
    return naive("tcr", "ttbr", "isb")


@row("S12", "FAULT")
def naive_isb_between() -> Problem:
    return naive("ttbr", "isb", "tcr", "isb")


@row("S13", "FAULT")
def naive_prefetched() -> Problem:
    return naive("tlbi", "ttbr", "tcr", "isb")


def trampoline(*barriers: str, neighbour: bool = False, options: Options | None = None) -> Problem:
    """KVM before 4.8: boot and run-time tables share the trampoline page, TTBR0_EL2 changes on it."""
    arena = Arena()
    boot, run = arena.table(), arena.table()
    arena.map(boot, TRAMPOLINE, LOW, 39)
    arena.map(run, TRAMPOLINE, LOW, 39)
    if neighbour:  # in the gigabyte of the run-time address, so that a walk of it gets a table
        arena.map(boot, RUN + (4 << 20), DATA_PA, 39)
    arena.map(run, RUN, LOW, 39)
    trace = Trace(TRAMPOLINE)
    for name in barriers:
        if name == "ttbr":
            trace.msr("TTBR0_EL2", run)
        elif name == "isb":
            trace.isb()
        elif name == "tlbi":
            trace.tlbi("ALLE2")
        else:
            trace.dsb("SY")
    trace.br(RUN).nop()
    intent = (Intent(TRAMPOLINE, K4, LOW & -K4), Intent(RUN & -K4, K4, LOW & -K4))
    registers = hyp_registers(boot, tcr2(25), on=True)
    return hyp_problem(arena, registers, trace, *intent, options=options or Options())


@row("S14")
def kvm_trampoline() -> Problem:
    return trampoline("ttbr", "isb", "tlbi", "dsb")


@row("S14b", "CONFLICT")
def kvm_trampoline_strict() -> Problem:
    return trampoline("ttbr", "isb", "tlbi", "dsb", options=Options().without(A_IC))


@row("S15", "FAULT")
def trampoline_without_tlbi() -> Problem:
    return trampoline("ttbr", "isb", neighbour=True)


@row("S16", "FAULT")
def tlbi_before_isb() -> Problem:
    return trampoline("ttbr", "tlbi", "dsb", "isb", neighbour=True)


@row("S19", "FAULT")
def no_dsb_after_tlbi() -> Problem:
    return trampoline("ttbr", "isb", "tlbi", "isb", neighbour=True)


@row("S20", "FAULT")
def no_isb_after_dsb() -> Problem:
    return trampoline("ttbr", "isb", "tlbi", "dsb", neighbour=True)


@row("S21", "WRONG-PA")
def not_identity() -> Problem:
    arena = Arena()
    root = arena.table()
    arena.map(root, LOW, 0x9000_1000, 39)
    arena.map(root, RUN, LOW, 39)
    trace = hyp_init(root, tcr2(25), LOW).br(RUN).nop()
    return hyp_problem(arena, hyp_registers(), trace, *hyp_intent(LOW))


@row("S22", "UNKNOWN-TLB")
def no_tlbi_after_reset() -> Problem:
    arena, root = wide_tables(LOW, 39)
    trace = Trace(LOW).msr("TTBR0_EL2", root).msr("TCR_EL2", tcr2(25)).msr("MAIR_EL2", MAIR)
    trace.isb().msr("SCTLR_EL2", M_ON).isb().br(RUN).nop()
    return hyp_problem(arena, hyp_registers(), trace, *hyp_intent(LOW))


def written_with_mmu_off(*maintenance: str) -> Problem:
    arena, root = wide_tables(LOW, 39)
    words = {
        at + i: int.from_bytes(data[i : i + 8], "little")
        for at, data in arena.pages.items()
        for i in range(0, len(data), 8)
    }
    empty = Arena()
    empty.pages = {at: bytearray(len(data)) for at, data in arena.pages.items()}
    trace = Trace(LOW)
    for at, value in words.items():
        if value:
            trace.store(at, value)
    for op in maintenance:
        if op == "DMB":
            trace.dmb()
            continue
        for at, value in words.items():
            if value:
                trace.dc(op, at)
    trace.dsb("SY")
    for step in hyp_init(root, tcr2(25), trace.pc).steps:
        trace.step(step.text, *step.events)
    trace.br(RUN).nop()
    tables = Intent(arena.base, len(arena.pages) * K4, arena.base)
    return hyp_problem(empty, hyp_registers(), trace, *hyp_intent(LOW), tables)


@row("S23", "FAULT")
def stores_past_the_cache() -> Problem:
    return written_with_mmu_off()


@row("S23b")
def stores_invalidated() -> Problem:
    return written_with_mmu_off("DMB", "IVAC")


@row("S25", "FAULT")
def output_size() -> Problem:
    code = 0x100_8000_1000
    arena = Arena()
    root = arena.table()
    arena.map(root, code, code, 48)
    trace = hyp_init(root, tcr2(16, ps=2), code).nop()
    return hyp_problem(arena, hyp_registers(), trace, Intent(code & -K4, K4, code & -K4))


def running(trace: Trace, tcr: int, bits: int, index: int = WB, **more: object) -> Problem:
    """Code at its ID map, MMU on, that changes a control."""
    arena = Arena()
    root = arena.table()
    arena.map(root, LOW, LOW, bits, index=index)
    registers = hyp_registers(root, tcr, on=True)
    return hyp_problem(arena, registers, trace.nop(), Intent(LOW & -K4, K4, LOW & -K4), **more)


@row("S26", "PERM")
def wxn() -> Problem:
    return running(Trace(LOW).msr("SCTLR_EL2", M_ON | 1 << 19).isb(), tcr2(25), 39)


@row("S27", "ATTR", "CONFLICT")
def mair_in_use() -> Problem:
    return running(Trace(LOW).msr("MAIR_EL2", 0x00_44_44).isb(), tcr2(25), 39)


@row("S28", "FAULT", "JUNK-WALK")
def granule_in_use() -> Problem:
    """Read with 64K, root[0] points to a level 3 table at an address rounded down to 64 KB."""
    code = 0x1000
    arena = Arena(0x6000_8000)
    root = arena.table()
    arena.map(root, code, LOW, 39)
    trace = Trace(code).msr("TCR_EL2", tcr2(25, TG0=1)).isb().nop()
    registers = hyp_registers(root, tcr2(25), on=True)
    options = Options(features=Features(pa_bits=48))
    return hyp_problem(arena, registers, trace, Intent(0x1000, K4, LOW & -K4), options=options)


@row("S29", "CONFLICT", "WRONG-PA")
def lpa2_in_use() -> Problem:
    return running(Trace(LOW).msr("TCR_EL2", tcr2(16, ps=6, DS=1)).isb(), tcr2(16, ps=6), 48)


@row("S29b")
def lpa2_mmu_off() -> Problem:
    arena = Arena()
    old, new = arena.table(), arena.table()
    arena.map(old, LOW, LOW, 48)
    arena.put(arena.map(new, LOW, LOW, 48), LOW & -K4 | 0x403)  # SH bits clear
    t = Trace(LOW).msr("SCTLR_EL2", 0x1004).isb().msr("TTBR0_EL2", new)
    t.msr("TCR_EL2", tcr2(16, ps=6, DS=1)).isb().tlbi("ALLE2").dsb("NSH").isb()
    t.msr("SCTLR_EL2", M_ON).isb().nop()
    registers = hyp_registers(old, tcr2(16, ps=6), on=True)
    return hyp_problem(arena, registers, t, Intent(LOW & -K4, K4, LOW & -K4))


@row("S31", "CONFLICT", "WRONG-PA")
def common_not_private() -> Problem:
    arena = Arena()
    mine, other = arena.table(), arena.table()
    arena.map(mine, LOW, LOW, 39)
    arena.map(other, LOW, 0x9000_1000, 39)
    registers = hyp_registers(mine | 1, tcr2(25), on=True)
    environment = (Environment("EL2", {"TTBR0_EL2": other | 1}),)
    intent = Intent(LOW & -K4, K4, LOW & -K4)
    return hyp_problem(arena, registers, Trace(LOW).nop(), intent, environment=environment)


# --- EL1: the kernel --------------------------------------------------------------------------

KERNEL = 0xFFFF_FF80_0000_0000  # TTBR1, 39 bits
TEXT, TEXT_PA = KERNEL + 0x1000_0000, 0x8020_0000
VARS, VARS_PA = KERNEL + 0x1040_0000, 0x8060_0000
IDMAP = 0x8020_1000  # the ID map page of the text
TARGET, TARGET_PA, OTHER_PA = KERNEL + 0x4000_0000, 0xA000_0000, 0xB000_0000
USER, USER_PA, OTHER_USER_PA = 0x40_2000, 0xC000_0000, 0xD000_0000
USER_INTENT = Intent(USER & -K4, K4, USER_PA, permissions=RW)


class Kernel:
    """The kernel's tables: text, variables, and a linear map of the tables themselves."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.zero = self.arena.table()
        self.root = self.kernel_root()
        self.intent = [
            Intent(TEXT, K4, TEXT_PA, permissions=RX),
            Intent(VARS, K4, VARS_PA, permissions=RW),
            Intent(KERNEL + self.arena.base, M2, self.arena.base, permissions=RW),
        ]

    def kernel_root(self, text_level: int = 3) -> int:
        root = self.arena.table()
        self.map(root, TEXT, TEXT_PA, level=text_level, extra=UXN)
        self.map(root, VARS, VARS_PA)
        self.map(root, KERNEL + self.arena.base, self.arena.base, level=2)
        return root

    def map(
        self, root: int, va: int, pa: int, level: int = 3, index: int = WB, extra: int = 0
    ) -> int:
        return self.arena.map(root, va & (1 << 39) - 1, pa, 39, level, index, extra)

    def user_root(self, pa: int, va: int = USER, extra: int = NG) -> int:
        root = self.arena.table()
        self.map(root, va, pa, extra=extra)
        return root

    def alias(self, location: int) -> int:
        """The kernel address of a table's word."""
        return KERNEL + location

    def problem(
        self,
        trace: Trace,
        *intent: Intent,
        ttbr0: int | None = None,
        t0sz: int = 25,
        options: Options | None = None,
        on: bool = True,
        changed: dict[str, int] | None = None,
    ) -> Problem:
        registers = {
            "TTBR0_EL1": self.zero if ttbr0 is None else ttbr0,
            "TTBR1_EL1": self.root,
            "TCR_EL1": tcr1(t0sz),
            "MAIR_EL1": MAIR,
            "SCTLR_EL1": M_ON if on else 0x1004,
        } | (changed or {})
        return Problem(
            self.arena.memory(),
            self.arena.extents,
            registers,
            trace.done,
            (*self.intent, *intent),
            options or Options(),
        )


def flush(t: Trace) -> Trace:
    return t.dsb("NSHST").tlbi("VMALLE1").dsb("NSH").isb()


def replace_ttbr1(*, reserved: bool, new_level: int, options: Options | None = None) -> Problem:
    """cpu_replace_ttbr1, or without the reserved table the direct way from the text itself."""
    k = Kernel()
    new = k.kernel_root(new_level)
    if not reserved:
        t = Trace(TEXT, el=1).msr("TTBR1_EL1", new).isb().nop().ldr(VARS)
        return k.problem(t, options=options)
    idmap = k.arena.table()
    k.arena.map(idmap, IDMAP, IDMAP, 48)
    user = k.user_root(USER_PA)
    t = Trace(TEXT, el=1).msr("TTBR0_EL1", k.zero).isb()
    flush(t).msr("TCR_EL1", tcr1(16)).isb().msr("TTBR0_EL1", idmap).isb().br(IDMAP)
    t.msr("TTBR1_EL1", k.zero).isb().tlbi("VMALLE1").dsb("NSH").isb()
    t.msr("TTBR1_EL1", new).isb().br(TEXT + 0x100).msr("TTBR0_EL1", k.zero).isb()
    flush(t).msr("TCR_EL1", tcr1(25)).isb().msr("TTBR0_EL1", 7 << 48 | user).isb()
    t.ldr(USER).ldr(VARS)
    return k.problem(t, Intent(IDMAP, K4, IDMAP, permissions=RX), USER_INTENT, options=options)


@row("S40")
def cpu_replace_ttbr1() -> Problem:
    return replace_ttbr1(reserved=True, new_level=2)


@row("S41", "CONFLICT")
def ttbr1_directly() -> Problem:
    return replace_ttbr1(reserved=False, new_level=2)


@row("S42", "CONFLICT", "FAULT", "WRONG-PA")
def t0sz_under_user_table() -> Problem:
    """Under T0SZ=16 the user's level 1 root is read at level 0, a 2 MB block below it at level 1."""
    k = Kernel()
    idmap = k.arena.table()
    k.arena.map(idmap, IDMAP, IDMAP, 48)
    user = k.arena.table()
    k.map(user, 0x40_0000, 0xC000_0000, level=2)
    k.map(user, IDMAP + (8 << 20), USER_PA, extra=NG)
    t = (
        Trace(TEXT, el=1)
        .msr("TCR_EL1", tcr1(16))
        .isb()
        .msr("TTBR0_EL1", idmap)
        .isb()
        .br(IDMAP)
        .nop()
    )
    return k.problem(t, Intent(IDMAP, K4, IDMAP, permissions=RX), ttbr0=user)


def leave_idmap(reserved: bool) -> Problem:
    """cpu_uninstall_idmap: the user maps the ID map's address to memory of its own."""
    k = Kernel()
    idmap = k.arena.table()
    k.map(idmap, IDMAP, IDMAP)
    user = k.user_root(USER_PA, IDMAP)
    t = Trace(TEXT, el=1).msr("TTBR0_EL1", k.zero).isb()
    if reserved:
        flush(t)
    t.msr("TTBR1_EL1", k.root).isb().msr("TTBR0_EL1", 7 << 48 | user).isb().ldr(IDMAP)
    return k.problem(t, Intent(IDMAP, K4, USER_PA, permissions=RW), ttbr0=idmap)


@row("S43", "CONFLICT", "WRONG-PA")
def idmap_left_behind() -> Problem:
    return leave_idmap(reserved=False)


@row("S43b")
def idmap_uninstalled() -> Problem:
    return leave_idmap(reserved=True)


def switch_mm(asid: int, *, reserved: bool = False) -> Problem:
    """From ASID 7 to *asid*; both address spaces map the same address."""
    k = Kernel()
    old, new = k.user_root(OTHER_USER_PA), k.user_root(USER_PA)
    t = Trace(TEXT, el=1)
    if reserved:  # cpu_do_switch_mm: the ASID is in TTBR1 (TCR.A1)
        t.msr("TTBR0_EL1", k.zero).msr("TTBR1_EL1", asid << 48 | k.root).msr("TTBR0_EL1", new)
        t.isb().ldr(USER)
        ttbr1 = 7 << 48 | k.root
        a1 = {"TCR_EL1": tcr1(25, A1=1), "TTBR1_EL1": ttbr1}
        return k.problem(t, USER_INTENT, ttbr0=old, changed=a1)
    t.msr("TTBR0_EL1", asid << 48 | new).isb().ldr(USER)
    return k.problem(t, USER_INTENT, ttbr0=7 << 48 | old)


@row("S44", "CONFLICT", "WRONG-PA")
def asid_reused() -> Problem:
    return switch_mm(7)


@row("S44b")
def asid_changed() -> Problem:
    return switch_mm(8)


@row("S44d")
def cpu_do_switch_mm() -> Problem:
    return switch_mm(8, reserved=True)


def remap(old: int, new: int, *steps: str, level: int = 3, **more: object) -> Problem:
    """Change the descriptor of TARGET. Steps: break, make, dsb, ishst, tlbi, isb."""
    k = Kernel()
    at = k.arena.location(k.root, TARGET & (1 << 39) - 1, level, 39)
    k.arena.put(at, old)
    t = Trace(TEXT, el=1)
    for name in steps:
        if name == "break":
            t.store(k.alias(at), 0)
        elif name == "make":
            t.store(k.alias(at), new)
        elif name == "tlbi":
            t.tlbi("VAE1IS", TARGET)
        elif name == "isb":
            t.isb()
        else:
            t.dsb("ISHST" if name == "ishst" else "ISH")
    t.ldr(TARGET)
    pa = new & 0xFFFF_FFFF_F000
    return k.problem(t, Intent(TARGET, K4, pa, permissions=RW), **more)  # type: ignore[arg-type]


BBM = ("break", "dsb", "tlbi", "dsb", "isb", "make", "dsb", "isb")


@row("S50")
def break_before_make() -> Problem:
    return remap(page(TARGET_PA), page(OTHER_PA), *BBM)


@row("S51", "BBM", "CONFLICT", "WRONG-PA")
def no_break() -> Problem:
    return remap(page(TARGET_PA), page(OTHER_PA), "make", "dsb", "isb")


@row("S52", "BBM", "CONFLICT", "WRONG-PA")
def break_without_tlbi() -> Problem:
    return remap(page(TARGET_PA), page(OTHER_PA), "break", "dsb", "isb", "make", "dsb", "isb")


@row("S53", "BBM", "CONFLICT", "WRONG-PA")
def break_without_dsb() -> Problem:
    return remap(page(TARGET_PA), page(OTHER_PA), "break", *BBM[2:])


@row("S55", "ATTR", "BBM", "CONFLICT")
def type_changed() -> Problem:
    return remap(page(TARGET_PA), page(TARGET_PA, NC), "make", "dsb", "isb")


def split(options: Options, *, merge: bool = False) -> Problem:
    """A 2 MB block becomes a table of pages that translate alike, or the other way round."""
    k = Kernel()
    at = k.arena.location(k.root, TARGET & (1 << 39) - 1, 2, 39)
    table = k.arena.table()
    for i in range(512):
        k.arena.put(table + 8 * i, page(TARGET_PA + i * K4))
    values = [block(TARGET_PA), table | 3]
    if merge:
        values.reverse()
    k.arena.put(at, values[0])
    t = Trace(TEXT, el=1).store(k.alias(at), values[1]).dsb("ISH").isb().ldr(TARGET)
    return k.problem(t, Intent(TARGET, M2, TARGET_PA, permissions=RW), options=options)


@row("S57", "BBM", "CONFLICT")
def split_live() -> Problem:
    return split(Options())


@row("S57b")
def split_live_bbml2() -> Problem:
    return split(Options(bbm="2na"))


@row("S58", "BBM", "CONFLICT")
def merge_live() -> Problem:
    return split(Options(), merge=True)


@row("S59", "CONFLICT")
def contiguous_live() -> Problem:
    k = Kernel()
    at = [k.map(k.root, TARGET + i * K4, TARGET_PA + i * K4) for i in range(16)]
    t = Trace(TEXT, el=1)
    for i, location in enumerate(at):
        t.store(k.alias(location), page(TARGET_PA + i * K4, extra=CONT))
    t.dsb("ISH").isb().ldr(TARGET)
    return k.problem(t, Intent(TARGET, 16 * K4, TARGET_PA, permissions=RW))


@row("S61")
def invalid_to_valid() -> Problem:
    return remap(0, page(TARGET_PA), "make", "ishst", "isb")


@row("S62", "FAULT")
def invalid_to_valid_no_isb() -> Problem:
    return remap(0, page(TARGET_PA), "make", "dsb")


@row("S63", "FAULT")
def invalid_to_valid_no_dsb() -> Problem:
    return remap(0, page(TARGET_PA), "make", "isb")


def table_reused(tlbi: str) -> Problem:
    """A level 3 table is unlinked and reused for other mappings; a new one takes its place."""
    k = Kernel()
    leaf = k.map(k.root, TARGET, TARGET_PA)
    link = k.arena.location(k.root, TARGET & (1 << 39) - 1, 2, 39)
    fresh = k.arena.table()
    k.arena.put(fresh + 8 * (TARGET >> 12 & 511), page(TARGET_PA))
    t = Trace(TEXT, el=1).store(k.alias(link), 0).dsb("ISH").tlbi(tlbi, TARGET).dsb("ISH").isb()
    t.store(k.alias(leaf), page(OTHER_PA)).store(k.alias(link), fresh | 3).dsb("ISH").isb().ldr(
        TARGET
    )
    return k.problem(t, Intent(TARGET, K4, TARGET_PA, permissions=RW))


@row("S64", "BBM", "CONFLICT", "WRONG-PA")
def last_level_only() -> Problem:
    return table_reused("VALE1IS")


@row("S64b")
def all_levels() -> Problem:
    return table_reused("VAE1IS")


@row("S67", "BBM", "CONFLICT")
def made_global() -> Problem:
    return remap(page(TARGET_PA, extra=NG), page(TARGET_PA), "make", "dsb", "isb")


@row("S70")
def kexec_ttbr_switch() -> Problem:
    """break_before_make_ttbr_switch, from code at the ID map."""
    k = Kernel()
    idmap = k.arena.table()
    k.map(idmap, IDMAP, IDMAP)
    new = k.kernel_root(2)
    t = Trace(IDMAP, el=1).msr("TTBR1_EL1", k.zero).isb().tlbi("VMALLE1").dsb("NSH").isb()
    t.msr("TTBR1_EL1", new).isb().br(TEXT).nop().ldr(VARS)
    return k.problem(t, Intent(IDMAP, K4, IDMAP, permissions=RX), ttbr0=idmap)


@row("S71")
def cpu_setup_enable_mmu() -> Problem:
    """TLBI first, then MAIR, TCR and the TTBRs; load_ttbr1 has the ISB before M=1."""
    k = Kernel()
    idmap = k.arena.table()
    k.map(idmap, IDMAP, IDMAP)
    t = Trace(IDMAP, el=1).tlbi("VMALLE1").dsb("NSH").msr("MAIR_EL1", MAIR).msr("TCR_EL1", tcr1(25))
    t.msr("TTBR0_EL1", idmap).msr("TTBR1_EL1", k.root).isb().msr("SCTLR_EL1", M_ON).isb()
    t.br(TEXT).nop().ldr(VARS)
    reset = {"MAIR_EL1": 0, "TCR_EL1": 0, "TTBR1_EL1": 0}
    intent = Intent(IDMAP, K4, IDMAP, permissions=RX)
    return k.problem(t, intent, on=False, changed=reset)

"""Options and regimes of the proof: FEAT_BBM, FEAT_ETS2, FEAT_nTLBPA, EL2&0, the granules."""

from dataclasses import replace

import pytest

from switch_catalogue import (
    HIGH,
    K4,
    KERNEL,
    OTHER_PA,
    ROWS,
    RUN,
    RW,
    TARGET,
    TARGET_PA,
    TEXT,
    TEXT_PA,
    Kernel,
    hyp_init,
    hyp_problem,
    hyp_registers,
    wide_tables,
    written_with_mmu_off,
)
from switch_tables import M_ON, MAIR, NG, RO, UXN, Arena, Trace, page, tcr1, tcr2
from ttbr.arch.attributes import PR, PW, PX, UR
from ttbr.arch.geometry import GRANULES, level_count
from ttbr.errors import InvalidError
from ttbr.switch.problem import (
    A_CTRL,
    A_DSB,
    A_IC,
    Environment,
    Intent,
    IntentMap,
    Options,
    Problem,
)
from ttbr.switch.program import Msr
from ttbr.switch.prove import prove, prove_all

STRICT = Options().without(A_IC, A_CTRL, A_DSB)


def kinds(name: str, **options: object) -> tuple[str, ...]:
    problem = ROWS[name].make()
    return prove(replace(problem, options=replace(problem.options, **options))).kinds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "by_level"),
    [
        ("S57", [("CONFLICT", "BBM"), ("CONFLICT", "BBM"), ("CONFLICT-ABORT",), ()]),
        ("S58", [("CONFLICT", "BBM"), ("CONFLICT", "BBM"), ("CONFLICT-ABORT",), ()]),
        ("S59", [("CONFLICT",), ("CONFLICT-ABORT",), ("CONFLICT-ABORT",), ()]),
        ("S67", [("CONFLICT", "BBM")] * 4),
    ],
)
def test_levels_of_feat_bbm(name: str, by_level: list[tuple[str, ...]]) -> None:
    assert [kinds(name, bbm=bbm) for bbm in ("0", "1", "2", "2na")] == by_level


def test_feat_ets2_orders_data_accesses_only() -> None:
    assert kinds("S62", ets2=True) == ()
    assert kinds("S63", ets2=True) == ()  # D8.2.6.1: program order is enough for a fault
    assert kinds("S20", ets2=True) == ("FAULT",)  # a fetch
    assert kinds("S51", ets2=True) == ("WRONG-PA", "CONFLICT", "BBM")  # no fault, so no help


def change_under_another_asid(tlbi: str, options: Options) -> Problem:
    """A kernel mapping changes under ASID 0; ASID 7 was in use before, and is again."""
    k = Kernel()
    at = k.map(k.root, TARGET, TARGET_PA)
    user = k.user_root(0xC000_0000)
    t = Trace(TEXT, el=1).msr("TTBR0_EL1", k.zero).isb()
    t.store(KERNEL + at, 0).dsb("ISH").tlbi(tlbi, TARGET).dsb("ISH").isb()
    t.store(KERNEL + at, page(OTHER_PA)).dsb("ISH").isb()
    t.msr("TTBR0_EL1", 7 << 48 | user).isb().ldr(TARGET)
    target = Intent(TARGET, K4, OTHER_PA, permissions=RW)
    return k.problem(t, target, ttbr0=7 << 48 | user, options=options)


def test_copies_by_physical_address() -> None:
    """R_TJQVP: a copy goes with a TLBI of its context; VAAE1 is of every ASID."""
    assert prove(change_under_another_asid("VAE1IS", Options())).kinds[0] == "WRONG-PA"
    assert prove(change_under_another_asid("VAE1IS", Options(ntlbpa=True))).safe
    assert prove(change_under_another_asid("VAAE1IS", Options())).safe


def test_copies_pass_from_one_address_to_another() -> None:
    """A descriptor is read for one address only; then another table root reads it for another."""
    outcomes = {}
    for ntlbpa in (False, True):
        k = Kernel()
        shared = k.arena.table()
        at = shared + 8 * (TARGET >> 12 & 511)
        k.arena.put(at, page(TARGET_PA, extra=NG))
        old, new = k.arena.table(), k.arena.table()
        k.arena.link(old, 0x2000_0000, shared, 39, 2)
        k.arena.link(new, 0x4000_0000, shared, 39, 2)
        # The value is replaced while `old` is live, without a TLBI; then `new` reads it.
        t = Trace(TEXT, el=1).store(KERNEL + at, page(OTHER_PA, extra=NG)).dsb("ISH").isb()
        t.msr("TTBR0_EL1", new).isb().ldr(0x4000_0000)
        there = Intent(0x4000_0000, K4, OTHER_PA, permissions=RW)
        problem = k.problem(t, there, ttbr0=old, options=Options(ntlbpa=ntlbpa))
        outcomes[ntlbpa] = prove(problem).kinds
    assert outcomes[False] == ("WRONG-PA", "CONFLICT", "BBM")
    assert outcomes[True] == ("BBM",)


@pytest.mark.parametrize(
    ("granule", "wide", "narrow"),
    [
        ("4K", 24, 25),
        ("4K", 16, 25),
        ("16K", 24, 28),
        ("16K", 16, 17),
        ("64K", 20, 22),
        ("64K", 21, 22),
    ],
)
def test_root_that_points_to_itself(granule: str, wide: int, narrow: int) -> None:
    """R[0] -> R serves both T0SZ values, under every strict reading."""
    g = GRANULES[granule]
    arena = Arena(0x6000_0000, granule)
    bits = 64 - narrow
    root = arena.table()
    skipped = level_count(g, 64 - wide) > level_count(g, bits)
    if skipped:
        arena.put(root, root | 3)
    run = 5 << g.level_shift(4 - level_count(g, bits))
    code = 0x8000_0000
    arena.map(root, run, code, bits)
    t = Trace(run).msr("TCR_EL2", tcr2(narrow, TG0=g.tg0)).isb()
    t.tlbi("ALLE2").dsb("NSH").isb().nop()
    registers = hyp_registers(root, tcr2(wide, TG0=g.tg0), on=True)
    intent = Intent(run, g.size, code)
    for options in (Options(), Options().without(A_IC), Options().without(A_DSB)):
        problem = hyp_problem(arena, registers, t, intent, options=options)
        assert prove(problem).safe == (skipped or granule == "64K")
    if skipped and (wide, narrow) != (21, 22):
        strict = hyp_problem(arena, registers, t, intent, options=STRICT)
        assert prove(strict).safe


VHE = 1 << 34 | 1 << 27


def vhe_remap(tlbi: str, hcr: int = VHE) -> Problem:
    """Break-before-make of a kernel page at EL2 with HCR_EL2.E2H."""
    k = Kernel()
    at = k.map(k.root, TARGET, TARGET_PA)
    t = Trace(TEXT, 2, hcr).store(KERNEL + at, 0).dsb("ISH").tlbi(tlbi, TARGET).dsb("ISH").isb()
    t.store(KERNEL + at, page(OTHER_PA)).dsb("ISH").isb().ldr(TARGET)
    registers = {
        "TTBR0_EL2": k.zero,
        "TTBR1_EL2": k.root,
        "TCR_EL2": tcr1(25),
        "MAIR_EL2": MAIR,
        "SCTLR_EL2": M_ON,
        "HCR_EL2": hcr,
    }
    intent = (*k.intent, Intent(TARGET, K4, OTHER_PA, permissions=RW))
    return Problem(k.arena.memory(), k.arena.extents, registers, t.done, intent)


def test_el2_and_0() -> None:
    assert prove(vhe_remap("VAE2IS")).safe
    assert prove(vhe_remap("VAE1IS")).safe  # with TGE the EL1 names act on EL2&0
    assert prove(vhe_remap("VAE1IS", 1 << 34)).kinds == ("WRONG-PA", "CONFLICT", "BBM")


def test_common_not_private() -> None:
    """Another PE with the same tables does no harm, nor one with others while CnP is 0."""
    arena, root = wide_tables(HIGH, 40)
    other = arena.table()
    arena.map(other, RUN, 0x9_0000_0000, 40)
    t = Trace(RUN).nop()
    found = {}
    for cnp, table in ((1, root), (0, other), (1, other)):
        registers = hyp_registers(root | cnp, tcr2(24), on=True)
        environment = (Environment("EL2", {"TTBR0_EL2": table | 1}),)
        intent = Intent(RUN & -K4, K4, HIGH & -K4)
        problem = hyp_problem(arena, registers, t, intent, environment=environment)
        found[cnp, table == root] = prove(problem).kinds
    assert found == {(1, True): (), (0, False): (), (1, False): ("WRONG-PA", "CONFLICT")}


def test_non_cacheable_walks_see_stores_with_the_mmu_off() -> None:
    problem = written_with_mmu_off()
    plain = tcr2(25) & ~0xF00
    changed = (Msr("TCR_EL2", plain),)
    steps = tuple(replace(s, events=changed) if "TCR_EL2" in s.text else s for s in problem.steps)
    assert not prove(problem).safe
    assert prove(replace(problem, steps=steps)).safe


def test_unknown_content_of_the_tlb() -> None:
    problem = ROWS["S22"].make()
    assert prove(replace(problem, unknown_tlb=False)).safe
    running = ROWS["S44b"].make()
    assert prove(replace(running, unknown_tlb=True)).kinds == ("UNKNOWN-TLB",)


def test_where_the_program_goes_next() -> None:
    problem = replace(ROWS["S01"].make(), target=RUN + 0x100)
    assert prove(problem).safe
    with pytest.raises(InvalidError, match="after the last step: no intent says where 0x123000"):
        prove(replace(problem, target=0x12_3000))


def access(extra: int, el: int, need: int) -> tuple[str, ...]:
    """One access to a page with these descriptor bits."""
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA, extra=extra)
    t = Trace(TEXT, el=1)
    if el == 0:
        k.map(k.root, TEXT, TEXT_PA, extra=1 << 6 | RO)
        t = Trace(TEXT, el=0)
    if need == PW:
        t.store(TARGET, 1)
    elif need == PX:
        t.br(TARGET).nop()
    else:
        t.ldr(TARGET)
    return prove(k.problem(t, Intent(TARGET, K4, TARGET_PA))).kinds


@pytest.mark.parametrize(
    ("extra", "el", "need", "expected"),
    [
        (0, 1, PW, ()),
        (RO, 1, PW, ("PERM",)),
        (RO, 1, PR, ()),
        (1 << 53, 1, PX, ("PERM",)),
        (UXN, 1, PX, ()),
        (0, 0, UR, ("PERM",)),
        (1 << 6, 0, UR, ()),
    ],
)
def test_permissions(extra: int, el: int, need: int, expected: tuple[str, ...]) -> None:
    assert access(extra, el, need) == expected


def test_walks_disabled() -> None:
    """I_ZFSYQ: EPD=1 faults only where nothing is cached, so what is cached counts on."""
    k = Kernel()
    user = k.user_root(0xC000_0000)
    epd = tcr1(25, EPD0=1)
    load = Intent(0x40_2000, K4, 0xD000_0000, permissions=RW)
    t = Trace(TEXT, el=1).msr("TCR_EL1", epd).isb().ldr(0x40_2000)
    assert prove(k.problem(t, load, ttbr0=user)).kinds == ("WRONG-PA", "FAULT")
    cold = Trace(TEXT, el=1).ldr(0x40_2000)
    assert prove(k.problem(cold, load, ttbr0=user, changed={"TCR_EL1": epd})).kinds == ("FAULT",)


def test_data_while_the_mmu_may_be_on_or_off() -> None:
    """Without an ISB the access may be Device; after it, it is what the map says."""
    arena, root = wide_tables(HIGH, 40)
    intent = Intent(HIGH & -K4, K4, HIGH & -K4)
    found = []
    for synchronized in (False, True):
        t = hyp_init(root, tcr2(24), HIGH)
        if not synchronized:
            t.steps.pop()
        t.ldr(HIGH + 0x800)
        found.append(prove(hyp_problem(arena, hyp_registers(), t, intent)).kinds)
    assert found == [("ATTR",), ()]


def test_cache_maintenance_has_no_memory_type() -> None:
    """DC by address acts on the physical address (D7.5), so only where it leads counts."""
    arena, root = wide_tables(HIGH, 40)
    intent = Intent(HIGH & -K4, K4, HIGH & -K4)
    found = []
    for use in ("ldr", "dc"):
        t = Trace(HIGH).msr("SCTLR_EL2", 0x1004)
        t = t.ldr(HIGH + 0x800) if use == "ldr" else t.dc("CIVAC", HIGH + 0x800)
        registers = hyp_registers(root, tcr2(24), on=True)
        found.append(prove(hyp_problem(arena, registers, t, intent)).kinds)
    assert found == [("ATTR",), ()]


def test_what_a_walk_of_junk_leaves_behind() -> None:
    """The old TTBR0 points to no table; the ISB before M=1 comes one instruction too early."""
    arena, root = wide_tables(HIGH, 40)
    t = Trace(HIGH).msr("TCR_EL2", tcr2(24)).msr("MAIR_EL2", MAIR).isb()
    t.tlbi("ALLE2").dsb("SY").msr("TTBR0_EL2", root).msr("SCTLR_EL2", M_ON).isb().br(RUN).nop()
    intent = (Intent(HIGH & -K4, K4, HIGH & -K4), Intent(RUN & -K4, K4, HIGH & -K4))
    result = prove(hyp_problem(arena, hyp_registers(), t, *intent))
    assert result.kinds == ("JUNK-WALK",)
    steps = {f.access.step for f in result.findings}
    assert len(t.steps) - 1 in steps  # long after the ISB


def test_two_assumptions_together() -> None:
    assert prove_all(ROWS["S01"].make()).assuming == (A_DSB,)
    proof = prove_all(ROWS["S03"].make())
    assert proof.verdict == "SAFE"
    assert set(proof.dropped) == {A_IC, A_CTRL, A_DSB}


def test_options_are_checked() -> None:
    with pytest.raises(InvalidError, match="bbm '3': must be one of 0, 1, 2, 2na"):
        Options(bbm="3")
    with pytest.raises(InvalidError, match="assumption 'A-X'"):
        Options(assumptions=frozenset({"A-X"}))
    with pytest.raises(InvalidError, match="line 48"):
        Options(line=48)


def test_intents_are_checked() -> None:
    for bad in ({"size": 0}, {"va": 0x10}, {"size": 0x1001}, {"pa": 5}, {"when": "later"}):
        with pytest.raises(InvalidError, match="intent for 0x"):
            Intent(**({"va": 0x1000, "size": 0x1000, "pa": 0} | bad))
    found = IntentMap([Intent(0x3000, 0x1000, 0), Intent(0x1000, 0x1000, 0x8000)])
    assert found.at(0xFFF) is None
    assert found.at(0x2000) is None
    first = found.at(0x1234)
    assert first is not None
    assert first.output(0x1234) == 0x8234

"""What an access meets: PSTATE.PAN, SCTLR.C, E0PD, meant faults, and entries that conflict."""

from dataclasses import replace

import pytest

from switch_catalogue import (
    HIGH,
    K4,
    KERNEL,
    OTHER_PA,
    RUN,
    RW,
    TARGET,
    TARGET_PA,
    TEXT,
    TEXT_PA,
    Kernel,
    hyp_problem,
    hyp_registers,
    wide_tables,
)
from switch_tables import DEVICE, M_ON, NC, RO, UXN, Arena, Trace, page, tcr1, tcr2
from ttbr.arch.attributes import PR, PX, UX
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.switch.explain import explain
from ttbr.switch.problem import A_IC, Environment, Intent, Options, Problem
from ttbr.switch.program import Abort, Eret, ExceptionEntry
from ttbr.switch.prove import prove
from ttbr.switch.scenario import parse_scenario

USER, EPAN = 1 << 6, 1 << 57


def rules(problem: Problem) -> set[str]:
    return {rule for finding in prove(problem).findings for rule in explain(finding).rules}


# PSTATE.PAN


def under_pan(pan: int | None, extra: int, sctlr: int = M_ON, store: bool = False) -> Problem:
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA, extra=extra)
    t = Trace(TEXT, el=1)
    t = t.store(TARGET, 1) if store else t.ldr(TARGET)
    t.steps[-1] = replace(t.steps[-1], pan=pan)
    target = Intent(TARGET, K4, TARGET_PA, permissions=PR)
    return k.problem(t, target, changed={"SCTLR_EL1": sctlr})


@pytest.mark.parametrize("store", [False, True])
def test_pan_bars_what_el0_may_access(store: bool) -> None:
    assert prove(under_pan(0, USER, store=store)).safe
    assert prove(under_pan(1, 0, store=store)).safe
    for pan in (1, None):  # not known: it may be 1
        problem = under_pan(pan, USER, store=store)
        assert prove(problem).kinds == ("PERM",)
        assert any("PSTATE.PAN" in rule for rule in rules(problem))


def test_pan_and_what_el0_may_only_execute() -> None:
    """FEAT_PAN3: SCTLR_ELx.EPAN counts them too."""
    execute_only = RO  # AP[1]=0 and UXN=0
    assert prove(under_pan(1, execute_only)).safe
    assert prove(under_pan(1, execute_only, M_ON | EPAN)).kinds == ("PERM",)
    assert prove(under_pan(1, execute_only | UXN, M_ON | EPAN)).safe


# SCTLR_ELx.C


@pytest.mark.parametrize(
    ("index", "attr", "kinds"), [(0, 0xFF, ("ATTR",)), (NC, 0x44, ()), (DEVICE, 0x00, ())]
)
def test_data_is_not_cacheable_without_c(index: int, attr: int, kinds: tuple[str, ...]) -> None:
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA, index=index)
    t = Trace(TEXT, el=1).msr("SCTLR_EL1", M_ON & ~4).isb().ldr(TARGET)
    problem = k.problem(t, Intent(TARGET, K4, TARGET_PA, attr=attr, permissions=RW))
    assert prove(problem).kinds == kinds
    assert any("SCTLR_ELx.C=0" in rule for rule in rules(problem)) == bool(kinds)


def test_c_that_is_not_synchronized() -> None:
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA)
    target = Intent(TARGET, K4, TARGET_PA, permissions=RW)
    off = {"SCTLR_EL1": M_ON & ~4}
    soon = Trace(TEXT, el=1).msr("SCTLR_EL1", M_ON).ldr(TARGET)
    assert prove(k.problem(soon, target, changed=off)).kinds == ("ATTR",)
    later = Trace(TEXT, el=1).msr("SCTLR_EL1", M_ON).isb().ldr(TARGET)
    assert prove(k.problem(later, target, changed=off)).safe


# Hardware dirty state


def test_hardware_that_makes_a_page_writable_is_refused() -> None:
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA, extra=1 << 51 | RO)
    target = Intent(TARGET, K4, TARGET_PA, permissions=PR)
    for hd in (0, 1):
        tcr = {"TCR_EL1": tcr1(25, HA=1, HD=hd)}
        problem = k.problem(Trace(TEXT, el=1).ldr(TARGET), target, changed=tcr)
        if hd:
            with pytest.raises(UnsupportedError, match="has DBM=1 while TCR"):
                prove(problem)
        else:
            assert prove(problem).safe


# E0PD


def test_el0_access_to_a_half_with_e0pd() -> None:
    found = []
    for e0pd in (0, 1):
        k = Kernel()
        k.map(k.root, TEXT, TEXT_PA, extra=USER | RO)
        tcr = {"TCR_EL1": tcr1(25, E0PD1=e0pd)}
        problem = k.problem(Trace(TEXT, el=0).nop(), changed=tcr)
        text = Intent(TEXT, K4, TEXT_PA, permissions=UX)
        rest = tuple(i for i in problem.intent if i.va != TEXT)
        found.append(prove(replace(problem, intent=(*rest, text))).kinds)
    assert found == [(), ("FAULT",)]


# WXN


def test_the_rule_of_a_stale_wxn() -> None:
    """R_VNRFW: synchronized, but entries made under it stay."""
    k = Kernel()
    k.map(k.root, TARGET, TARGET_PA)
    t = Trace(TEXT, el=1).msr("SCTLR_EL1", M_ON).isb().br(TARGET).nop()
    target = Intent(TARGET, K4, TARGET_PA, permissions=PX)
    problem = k.problem(t, target, changed={"SCTLR_EL1": M_ON | 1 << 19})
    assert prove(problem).kinds == ("PERM",)
    assert "R_VNRFW SCTLR_ELx.WXN is permitted to be cached in a TLB" in rules(problem)
    assert "K1.2.4 unsynchronized registers" not in rules(problem)


# Fetches that are meant to fault


def enabling(*, isb: bool, mapped: bool, synchronized: bool) -> Problem:
    """The MMU comes on at VA = PA, which the tables map or not; the vector is at RUN."""
    arena = Arena()
    root = arena.table()
    if mapped:
        arena.map(root, HIGH, HIGH, 40)
    arena.map(root, RUN, HIGH, 40)
    t = Trace(HIGH).msr("TTBR0_EL2", root).msr("TCR_EL2", tcr2(24)).msr("MAIR_EL2", 0x44FF).isb()
    t.tlbi("ALLE2").dsb("SY").isb().msr("SCTLR_EL2", M_ON)
    if synchronized:
        t.isb()
    t.step("(fault)", Abort(isb), ExceptionEntry(2, RUN))
    t.pc = RUN
    intent = (Intent(HIGH & -K4, K4, HIGH & -K4, fault=True), Intent(RUN & -K4, K4, HIGH & -K4))
    return hyp_problem(arena, hyp_registers(), t.nop(), *intent)


def test_a_meant_fault_has_to_come() -> None:
    assert prove(enabling(isb=True, mapped=False, synchronized=False)).safe
    assert prove(enabling(isb=True, mapped=True, synchronized=False)).kinds == ("NO-FAULT",)
    # Without an ISB there the MMU may stay off for more than this one instruction.
    assert prove(enabling(isb=False, mapped=False, synchronized=False)).kinds == ("NO-FAULT",)


def test_an_access_that_ends_the_run() -> None:
    k = Kernel()
    hole = Intent(TARGET, K4, None)
    assert prove(k.problem(Trace(TEXT, el=1).ldr(TARGET), hole)).safe
    with pytest.raises(InvalidError, match="is meant to be unmapped: end the"):
        prove(k.problem(Trace(TEXT, el=1).ldr(TARGET).nop(), hole))


# Entries that conflict


def reused(tlbi: str, options: Options | None = None, same: bool = False) -> Problem:
    """Another address space takes over ASID 7 while entries of the first may be cached."""
    k = Kernel()
    old, new = k.user_root(OTHER_PA), k.user_root(OTHER_PA if same else 0xC000_0000)
    t = Trace(TEXT, el=1).msr("TTBR0_EL1", 7 << 48 | new).isb().tlbi(tlbi, 0x40_2000, 7).dsb()
    t.isb().ldr(0x40_2000)
    load = Intent(0x40_2000, K4, OTHER_PA if same else 0xC000_0000, permissions=RW)
    return k.problem(t, load, ttbr0=7 << 48 | old, options=options or Options())


@pytest.mark.parametrize("tlbi", ["ASIDE1", "VAE1", "VAAE1"])
def test_only_a_tlbi_of_everything_removes_what_conflicts(tlbi: str) -> None:
    assert prove(reused(tlbi)).kinds == ("WRONG-PA", "CONFLICT")
    assert "R_BLRKC only a TLBI of everything is sure to remove conflicting entries" in rules(
        reused(tlbi)
    )
    assert prove(reused("VMALLE1")).safe


def test_partial_walks_that_conflict_without_a_ic() -> None:
    assert prove(reused("ASIDE1", same=True)).safe
    strict = Options().without(A_IC)
    assert prove(reused("ASIDE1", strict, same=True)).kinds == ("CONFLICT",)
    assert prove(reused("VMALLE1", strict, same=True)).safe


def test_cnp_on_one_pe_only() -> None:
    """R_LGDJT: entries are shared only where both have CnP=1."""
    arena, root = wide_tables(HIGH, 40)
    other = arena.table()
    arena.map(other, RUN, 0x9_0000_0000, 40)
    found = []
    for cnp in (0, 1):
        environment = (Environment("EL2", {"TTBR0_EL2": other | cnp}),)
        registers = hyp_registers(root | 1, tcr2(24), on=True)
        intent = Intent(RUN & -K4, K4, HIGH & -K4)
        problem = hyp_problem(arena, registers, Trace(RUN).nop(), intent, environment=environment)
        found.append(prove(problem).kinds)
    assert found == [(), ("WRONG-PA", "CONFLICT")]


# EL2 changes the tables of EL1


def remapped_from_el2(*maintenance: str, walks: dict[str, int]) -> Problem:
    """EL2, its MMU off, breaks and makes a descriptor of EL1&0."""
    k = Kernel()
    at = k.map(k.root, TARGET, TARGET_PA)
    vector = 0x8000_0000
    t = Trace(TEXT, el=1).call(2, vector).dsb("SY").store(at, 0)
    for value in (None, page(OTHER_PA)):
        if value is not None:
            t.tlbi("VMALLE1").dsb("SY").isb().store(at, value)
        for op in maintenance:
            t = t.dmb() if op == "DMB" else t.dc(op, at)
        t.dsb("SY")
    t.step("eret", Eret(TEXT, 1))
    t.el, t.pc = 1, TEXT
    t.ldr(TARGET)
    hyp = {"TTBR0_EL2": 0, "TCR_EL2": tcr2(25), "SCTLR_EL2": 0} | walks
    tables = Intent(k.arena.base, 1 << 21, k.arena.base, regime="EL2")
    code = Intent(vector, K4, vector, regime="EL2")
    target = Intent(TARGET, K4, OTHER_PA, permissions=RW)
    return k.problem(t, target, tables, code, changed=hyp)


@pytest.mark.parametrize("tcr", [tcr2(25), tcr2(25) & ~0xF00])
def test_a_store_must_agree_with_the_walks_of_every_regime(tcr: int) -> None:
    """The walks that count are those of EL1&0, whatever TCR_EL2 says."""
    walks = {"TCR_EL2": tcr}
    assert "WRONG-PA" in prove(remapped_from_el2(walks=walks)).kinds
    assert prove(remapped_from_el2("DMB", "CIVAC", walks=walks)).safe


# FEAT_ExS


def entered(eis: int, written: int | None, synchronized: bool) -> tuple[str, ...]:
    k = Kernel()
    at = k.arena.location(k.root, TARGET & (1 << 39) - 1, 3, 39)
    t = Trace(TEXT, el=1)
    if written is not None:
        t.msr("SCTLR_EL1", M_ON | written << 22)
        if synchronized:
            t.isb()
    t.store(KERNEL + at, page(TARGET_PA)).dsb("ISH").call(1, TEXT + 0x200).ldr(TARGET)
    target = Intent(TARGET, K4, TARGET_PA, permissions=RW)
    sctlr = {"SCTLR_EL1": M_ON | eis << 22}
    return prove(k.problem(t, target, changed=sctlr, options=Options(exs=True))).kinds


def test_eis_as_it_is_at_the_exception() -> None:
    assert entered(1, None, False) == ()
    assert entered(0, None, False) == ("FAULT",)
    assert entered(1, 0, True) == ("FAULT",)
    assert entered(0, 1, True) == ()
    assert entered(1, 0, False) == entered(0, 1, False) == ("FAULT",)


def test_pan_must_be_a_bit() -> None:
    text = 'title = "t"\nregime = "EL1&0"\n[region]\na = { va = 0 }\n[table.k]\nmap = ["a"]\n'
    text += '[registers]\nfrom = "k"\nPAN = 0x400000\n[program]\nat = "a"\ntext = "nop"\n'
    with pytest.raises(InvalidError, match="0x400000: PSTATE"):
        parse_scenario(text + '[intent]\nreach = ["a"]\n', "s.toml")

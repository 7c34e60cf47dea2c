"""The transition rules: what each event does to registers, memory and pending TLBIs."""

from dataclasses import replace

import pytest

from switch_catalogue import KERNEL, TARGET, TEXT, Kernel
from switch_tables import M_ON, NC, Trace, page, tcr1, tcr2
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.switch.machine import _WHEN, RULES, Machine
from ttbr.switch.problem import A_CTRL, A_DSB, Intent, Options, Problem
from ttbr.switch.program import Dmb, Dsb, Eret, ExceptionEntry, Isb, Msr, Step, Store
from ttbr.switch.prove import prove
from ttbr.switch.state import DRAINING, IN, OUT, with_sticky
from ttbr.switch.timeline import Timeline, timeline

EL1, EL2 = "EL1&0", "EL2"


def kernel(
    trace: Trace, options: Options | None = None, registers: dict[str, int] | None = None
) -> Problem:
    return Kernel().problem(trace, options=options, changed=registers)


def points(trace: Trace, options: Options | None = None) -> Timeline:
    return timeline(kernel(trace, options))


def el1() -> Trace:
    return Trace(TEXT, el=1)


def test_the_table_is_complete() -> None:
    assert {rule.when for rule in RULES} == set(_WHEN)
    for rule in RULES:
        assert callable(getattr(Machine, rule.effect))
        assert rule.source
        assert rule.does


def test_registers_are_lists_until_synchronized() -> None:
    line = points(el1().msr("TTBR0_EL1", 0x1000).msr("TTBR0_EL1", 0x2000).isb())
    pairs = [[pair[0] for pair in p.registers[EL1].pairs] for p in line.points]
    zero = line.problem.registers["TTBR0_EL1"]
    assert pairs == [[zero], [zero, 0x1000], [zero, 0x1000, 0x2000], [0x2000]]


def test_ttbr0_and_ttbr1_are_one_pair() -> None:
    line = points(el1().msr("TTBR0_EL1", 0x1000).msr("TTBR1_EL1", 0x2000))
    now = line.points[0].registers[EL1].pairs[0]
    assert line.points[-1].registers[EL1].pairs == (now, (0x1000, now[1]), (0x1000, 0x2000))


def test_fields_of_one_register_are_apart() -> None:
    line = points(el1().msr("TCR_EL1", tcr1(16, t1sz=24)))
    fields = line.points[-1].registers[EL1].fields
    assert fields["T0SZ"] == (25, 16)
    assert fields["T1SZ"] == (25, 24)
    assert fields["TG0"] == (0,)
    configs = line.configs(line.points[-1], EL1, 0)
    assert {c.values["T0SZ"] for c in configs} == {25, 16}
    assert len(line.configs(line.points[-1], EL1, 1)) == 2  # T0SZ does not count there


def test_nine_unsynchronized_fields() -> None:
    changed = {"TBI0": 1, "HPD0": 1, "HA": 1, "HD": 1, "DS": 1, "A1": 1}
    trace = el1().msr("TCR_EL1", tcr1(16, ips=6, **changed)).msr("SCTLR_EL1", M_ON | 1 << 19)
    line = points(trace)
    assert len(line.configs(line.points[-1], EL1, 0)) == 512


def test_too_many_combinations_are_refused() -> None:
    trace = el1()
    for t0sz in range(16, 36):
        trace.msr("TCR_EL1", tcr1(t0sz, ips=t0sz % 6, HA=t0sz & 1, HPD0=t0sz & 1, TBI0=t0sz & 1))
    for n in range(20):
        trace.msr("MAIR_EL1", n)
    with pytest.raises(UnsupportedError, match="combinations of unsynchronized fields"):
        prove(kernel(trace))


@pytest.mark.parametrize(
    "event", [Isb(), ExceptionEntry(1, KERNEL), Eret(TEXT, 1)], ids=["isb", "entry", "eret"]
)
def test_context_synchronization(event: object) -> None:
    trace = el1().msr("TTBR0_EL1", 0x1000).step("sync", event)  # type: ignore[arg-type]
    line = points(trace)
    assert len(line.points[-1].registers[EL1].pairs) == 1
    assert line.since == len(line.points) - 1


def test_exception_entry_with_exs() -> None:
    """FEAT_ExS: SCTLR_EL1.EIS=0 makes exception entry no synchronization event."""
    trace = el1().msr("TTBR0_EL1", 0x1000).step("svc", ExceptionEntry(1, KERNEL))
    for eis, length in ((0, 2), (1, 1)):
        problem = kernel(trace, Options(exs=True), {"SCTLR_EL1": M_ON | eis << 22})
        assert len(timeline(problem).points[-1].registers[EL1].pairs) == length


def test_dmb_changes_nothing() -> None:
    line = points(el1().step("dmb ish", Dmb("ISH")))
    assert len(line.points) == 1


def stored(*tail: str, intent: Intent | None = None) -> Timeline:
    k = Kernel()
    at = k.arena.location(k.root, TARGET & (1 << 39) - 1, 3, 39)
    k.arena.put(at, page(0xA000_0000))
    t = el1().store(KERNEL + at, page(0xB000_0000))
    for name in tail:
        if name.startswith("dc"):
            t.dc(name[3:], KERNEL + at)
        else:
            t.dsb(name)
    problem = k.problem(t)
    if intent is not None:
        rest = tuple(i for i in problem.intent if i.va != intent.va)
        problem = replace(problem, intent=(*rest, intent))
    return timeline(problem)


def seen(line: Timeline) -> list[tuple[int, ...]]:
    return [
        tuple(v & 0xF000_0000 for values in p.visible["EL1&0"].values() for v in values)
        for p in line.points
    ]


OLD, NEW = 0xA000_0000, 0xB000_0000


@pytest.mark.parametrize(
    ("option", "completes"),
    [("NSH", True), ("ISHST", True), ("SY", True), ("ISHLD", False), ("NSHLD", False)],
)
def test_dsb_completes_stores(option: str, completes: bool) -> None:
    line = stored(option)
    assert seen(line)[1] == (OLD, NEW)
    assert seen(line)[-1] == ((NEW,) if completes else (OLD, NEW))


def test_a_store_past_the_cache_needs_maintenance() -> None:
    """R_XGXKR: the tables are mapped Non-cacheable, the walks are cacheable.

    A clean leaves a stale clean line in the cache; and only a DSB or DMB orders DC by VA after a
    store that is not cacheable (D7.5.9).
    """
    k = Kernel()
    nc = Intent(KERNEL + k.arena.base, 1 << 21, k.arena.base, attr=0x44, permissions=3)
    assert seen(stored("SY", intent=nc))[-1] == (OLD, NEW)
    assert seen(stored("dc CVAU", "SY", intent=nc))[-1] == (OLD, NEW)
    for op, helps in (("CVAC", False), ("CIVAC", True), ("IVAC", True)):
        expected = (NEW,) if helps else (OLD, NEW)
        assert seen(stored("SY", f"dc {op}", "SY", intent=nc))[-1] == expected
        assert seen(stored(f"dc {op}", "SY", intent=nc))[-1] == (OLD, NEW)
        assert seen(stored("SY", f"dc {op}", intent=nc))[-1] == (OLD, NEW)


def test_partial_stores() -> None:
    k = Kernel()
    at = k.arena.location(k.root, TARGET & (1 << 39) - 1, 3, 39)
    k.arena.put(at, 0x1111_2222_3333_4444)
    trace = el1().step("str w0", Store(KERNEL + at + 4, 4, 0xAAAA_BBBB))
    trace.step("stp", Store(KERNEL + at + 8, 16, 7 << 64 | 5))
    line = timeline(k.problem(trace))
    visible = line.points[-1].visible["EL1&0"]
    last = {location - at: values[-1] for location, values in visible.items()}
    assert last == {0: 0xAAAA_BBBB_3333_4444, 8: 5, 16: 7}


def test_tlbi_is_pending_until_its_dsb() -> None:
    line = points(el1().tlbi("VMALLE1IS").dsb("NSH").dsb("ISHST").dsb("ISH"))
    issued = line.points[1].issued
    assert issued is not None
    assert [p.completed for p in line.points] == [(), (), (issued.number,)]
    assert line.points[-1].pending == ()


def test_tlbi_of_another_regime_does_not_count() -> None:
    assert len(points(el1().tlbi("ALLE2")).points) == 1


def test_strict_completion_needs_synchronization() -> None:
    line = points(el1().tlbi("VMALLE1").dsb("NSH").isb(), Options().without(A_DSB))
    assert [bool(p.completed) for p in line.points] == [False, False, True]


def test_sticky_values_mix_bit_by_bit() -> None:
    """K1.2.3: old, new or an amalgamation of a control that a TLB holds."""
    from ttbr.switch.configs import ROWS

    fields = {"T0SZ": (16, 25), "EPD0": (0,)}
    found = with_sticky(ROWS[EL1], fields, {"T0SZ": frozenset({16, 25}), "EPD0": frozenset({0})})
    assert set(found["T0SZ"]) == {16, 17, 24, 25}
    assert found["T0SZ"][-1] == 25
    assert found["EPD0"] == (0,)


@pytest.mark.parametrize(
    ("old", "new", "closure"),
    [(24, 25, {24, 25}), (20, 22, {20, 22}), (16, 17, {16, 17}), (24, 28, {24, 28})],
)
def test_closed_pairs_of_t0sz(old: int, new: int, closure: set[int]) -> None:
    from ttbr.switch.configs import ROWS

    found = with_sticky(ROWS[EL2], {"T0SZ": (new,)}, {"T0SZ": frozenset({old, new})})
    assert set(found["T0SZ"]) == closure


def test_sticky_until_a_tlbi_of_everything() -> None:
    trace = el1().msr("TCR_EL1", tcr1(16)).isb().tlbi("VAE1", TARGET).dsb().tlbi("VMALLE1").dsb()
    line = points(trace, Options().without(A_CTRL))
    sticky = [p.registers[EL1].sticky["T0SZ"] for p in line.points]
    assert sticky[2] == {16, 25}
    assert sticky[4] == {16, 25}
    assert sticky[-1] == {16}


def test_a1_and_epd_are_never_sticky() -> None:
    line = points(el1().msr("TCR_EL1", tcr1(25, A1=1, EPD0=1)).isb(), Options().without(A_CTRL))
    sticky = line.points[-1].registers[EL1].sticky
    assert sticky["A1"] == set()
    assert sticky["EPD0"] == {0}


def test_el1_walks_drain_at_el2() -> None:
    k = Kernel()
    t = el1().step("hvc", ExceptionEntry(2, 0x8000_0000))
    t.el, t.pc = 2, 0x8000_0000
    t.dsb("SY").eret(1, TEXT).nop()
    hyp = {"TTBR0_EL2": 0, "TCR_EL2": tcr2(25), "SCTLR_EL2": 0}
    problem = k.problem(t, Intent(0x8000_0000, 4096, 0x8000_0000), changed=hyp)
    line = timeline(problem)
    walking = [(p.registers[EL1].walking, p.registers[EL2].walking) for p in line.points]
    assert walking == [(IN, DRAINING), (DRAINING, IN), (OUT, IN), (IN, DRAINING)]
    assert prove(problem).safe


def test_a_switch_of_el1_at_el2_needs_the_dsb() -> None:
    """The walks in flight may pair the new TTBR with the old TCR until a DSB (S68)."""
    kinds = {}
    for drained in (False, True):
        k = Kernel()
        new = k.arena.table()
        k.arena.map(new, 0x8020_1000, 0x8020_1000, 48)
        t = el1().step("hvc", ExceptionEntry(2, 0x8000_0000))
        t.el, t.pc = 2, 0x8000_0000
        if drained:
            t.dsb("SY")
        t.msr("TTBR0_EL1", new).isb().msr("TCR_EL1", tcr1(16)).isb().eret(1, 0x8020_1000).nop()
        hyp = {"TTBR0_EL2": 0, "TCR_EL2": tcr2(25), "SCTLR_EL2": 0}
        more = [Intent(0x8000_0000, 4096, 0x8000_0000), Intent(0x8020_1000, 4096, 0x8020_1000)]
        k.arena.put(new + 16, page(0xC000_0000))  # read at level 1 under T0SZ=25: a table
        kinds[drained] = prove(k.problem(t, *more, changed=hyp)).kinds
    assert kinds[False] != ()
    assert kinds[True] == ()


def test_tags_are_stripped_with_tbi() -> None:
    k = Kernel()
    k.map(k.root, TARGET, 0xA000_0000)
    t = el1().ldr(TARGET & ~(0xFF << 56) | 0x12 << 56)
    target = Intent(TARGET, 4096, 0xA000_0000, permissions=3)
    assert prove(k.problem(t, target, changed={"TCR_EL1": tcr1(25, TBI1=1)})).safe
    assert prove(k.problem(t, target)).kinds == ("FAULT",)


def one(step: Step, registers: dict[str, int] | None = None) -> Problem:
    problem = kernel(el1().nop(), registers=registers)
    return replace(problem, steps=(step,))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (one(Step(0, 3, "nop", "")), "do not cover EL3"),
        (one(Step(TEXT, 1, "nop", ""), {"HCR_EL2": 1 << 31 | 1}), r"HCR_EL2.VM=1: .* stage 2"),
        (one(Step(TEXT, 1, "nop", ""), {"HCR_EL2": 1 << 31 | 1 << 12}), "HCR_EL2.DC=1"),
        (one(Step(TEXT, 2, "msr", "", (Msr("HCR_EL2", 1 << 34),))), "changes HCR_EL2.E2H"),
        (one(Step(TEXT, 2, "msr", "", (Msr("HCR_EL2", 1 << 43),))), "changes HCR_EL2.NV1"),
        (one(Step(TEXT, 1, "msr", "", (Msr("SCTLR_EL1", 1 << 25 | 1),))), "EE=1 is not modelled"),
        *(
            (one(Step(TEXT, 1, "msr", "", (Msr(name, 2),))), f"a change of {name} is not modelled")
            for name in ("TCR2_EL1", "PIR_EL1", "PIRE0_EL1", "POR_EL1", "SCTLR2_EL1")
        ),
    ],
)
def test_refused(problem: Problem, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        prove(problem)


def test_invalid() -> None:
    k = Kernel()
    at = KERNEL + k.root
    trace = el1().step("str x9, [x0]", Store(at, 8, None))
    with pytest.raises(InvalidError, match="stores an unknown value to the table at 0x6"):
        prove(k.problem(trace))
    with pytest.raises(InvalidError, match="no intent says where 0x1000 should lead"):
        prove(kernel(Trace(0x1000, el=1).nop()))
    with pytest.raises(InvalidError, match="register TCR_EL1 is missing"):
        prove(replace(kernel(el1().nop()), registers={"TTBR0_EL1": 0}))
    problem = kernel(el1().nop())
    twice = replace(problem, intent=(*problem.intent, Intent(TEXT, 4096, 0x1000)))
    with pytest.raises(InvalidError, match="intent contradicts itself"):
        prove(twice)
    with pytest.raises(InvalidError, match="the trace has no steps"):
        prove(replace(kernel(el1().nop()), steps=()))
    with pytest.raises(InvalidError, match=r"the table at 0x1000 is not in memory"):
        prove(
            replace(kernel(el1().nop(), registers={"TTBR1_EL1": 0x1000}), tables=((0x1000, 4096),))
        )


def test_other_events_of_a_store_outside_tables() -> None:
    k = Kernel()
    line = timeline(k.problem(el1().store(KERNEL + 0x1040_0000, NC).step("x", Dsb("SY"))))
    assert len(line.points) == 1

"""Code runs on Unicorn: the strategies arrive, what must die dies where it must."""

from dataclasses import replace

import pytest

import emulate_jobs
from emulate_jobs import EL1_RUNS, LOW, SEATTLE, enable_job, strategy_jobs
from emulate_tables import needs_unicorn
from ttbr.arch.faults import FaultKind
from ttbr.arch.geometry import PA, VA
from ttbr.arch.regime import EL20
from ttbr.build import Attributes, build, table_params
from ttbr.emulate.jobs import el1_job, text_job
from ttbr.emulate.planned import planned_job
from ttbr.emulate.replay import replay
from ttbr.emulate.run import Job
from ttbr.emulate.unicorn_run import run, run_both
from ttbr.errors import UnsupportedError
from ttbr.linux.sequences import sequence
from ttbr.regions import Region

pytestmark = needs_unicorn

BASE = 0x80_8000_0000


def test_a_39_bit_id_map_dies_above_512_gb_right_after_the_mmu_is_on() -> None:
    """The failure that the extra level was made for (Linux 4.1, dd006da21646)."""
    both = run_both(enable_job(BASE, 39))
    assert both.stale is None
    for outcome in (both.warm, both.cold):
        death = outcome.death
        assert death is not None
        assert outcome.executed[-1].text.lower() == "msr sctlr_el2, x3"
        assert death.pc == death.far == BASE + 0x101C
        assert (death.access, death.status) == ("fetch", 0b000100)  # Translation fault, level 0
        assert death.fault is not None
        assert (death.fault.kind, death.fault.level) == (FaultKind.TRANSLATION, 0)


@pytest.mark.parametrize("bits", [40, 48])
def test_with_the_extra_level_it_runs(bits: int) -> None:
    outcome = run(enable_job(BASE, bits))
    assert outcome.reached
    assert [e.pc for e in outcome.executed] == list(range(BASE + 0x1000, BASE + 0x1024, 4))
    assert all(e.pa == e.pc for e in outcome.executed)
    on = [e.state.mmu for e in outcome.executed]
    assert on == [False] * 7 + [True] * 2
    last = outcome.executed[-1].state
    assert (last.el, last.t0sz, last.ttbr1) == (2, 64 - bits, None)
    assert last.ttbr0 == outcome.registers["TTBR0_EL2"] == BASE + 0x10000


@pytest.mark.parametrize(("board", "name"), list(strategy_jobs()))
def test_every_strategy_arrives(board: str, name: str) -> None:
    both = run_both(emulate_jobs.strategy_job(board, name))
    assert both.warm.death is None
    assert both.cold.death is None
    assert both.stale is None
    job = both.warm.job
    assert both.warm.executed[0].pa == job.entry
    assert both.warm.executed[-1].pa == job.entry + 4 * (len(both.warm.executed) - 1)


@pytest.mark.parametrize("board", ["seattle 4K/39", "sbsa 4K/39"])
def test_the_literal_level_skip_dies(board: str) -> None:
    """One descriptor cannot be a block for one T0SZ and a page for the other."""
    job = emulate_jobs.strategy_job(board, "level-skip")
    for outcome in (run(job), run(job, cold=True), replay(job)):
        assert outcome.death is not None
        assert outcome.death.access == "fetch"


@pytest.mark.parametrize("base", [SEATTLE, LOW])
@pytest.mark.parametrize(("name", "release", "before", "after"), EL1_RUNS)
def test_every_el1_routine_arrives(
    name: str, release: str, before: str, after: str, base: int
) -> None:
    tables = emulate_jobs.el1(release, base)
    routine = sequence(name, tables.config.release)
    both = run_both(el1_job(name, tables, routine, getattr(tables, before), getattr(tables, after)))
    assert both.warm.death is None
    assert both.stale is None
    assert {e.state.el for e in both.warm.executed} == {1}


@pytest.mark.parametrize(("base", "dies"), [(SEATTLE, True), (LOW, False)])
def test_resume_before_4_4_loses_an_extended_id_map(base: int, dies: bool) -> None:
    tables = emulate_jobs.el1("4.3", base)
    routine = sequence("resume", tables.config.release)
    outcome = run(el1_job("resume", tables, routine, tables.idmap, tables.idmap))
    assert (outcome.death is not None) is dies


def test_a_naive_switch_lives_on_stale_entries_only() -> None:
    both = run_both(emulate_jobs.naive_job())
    assert both.warm.reached
    assert both.cold.death is not None
    assert both.cold.executed[-1].text.lower() == "msr ttbr0_el2, x4"
    assert both.stale is not None
    assert "relies on stale TLB entries" in both.stale


CODE = 0x8000_1000


def bare(text: str, **registers: int) -> Job:
    """Code at `CODE` with the MMU off."""
    return text_job("bare", text, CODE, {CODE: bytes(0x1000)}, registers, 2)


@pytest.mark.parametrize(
    ("text", "access", "far"),
    [
        ("ldr x1, [x0, #8]", "load", 0x9000_0008),
        ("str x1, [x0], #8", "store", 0x9000_0000),
        ("ldp x1, x2, [x0, #-16]!", "load", 0x8FFF_FFF0),
        ("br x0", "fetch", 0x9000_0000),
    ],
)
def test_where_no_memory_is(text: str, access: str, far: int) -> None:
    death = run(bare(f"{text}\nnop", x0=0x9000_0000)).death
    assert death is not None
    assert (death.access, death.far, death.fault) == (access, far, None)
    assert death.why == f"no memory at PA {far:#x}"


@pytest.mark.parametrize(
    ("text", "why"),
    [("svc #0", "SVC"), ("hvc #0", "HVC"), (".word 0", "UNDEFINED instruction")],
)
def test_exceptions_are_named(text: str, why: str) -> None:
    job = text_job("bare", "nop\nnop", CODE, {CODE: bytes(0x1000)}, {}, 1)
    code = {".word 0": bytes(4), "svc #0": b"\x01\0\0\xd4", "hvc #0": b"\x02\0\0\xd4"}[text]
    death = run(replace(job, memory={CODE: code + bytes(12)})).death
    assert death is not None
    assert death.why == why


def test_permission_faults_of_each_access() -> None:
    job = enable_job(0x8000_0000, 48, emulate_jobs.ENABLE + "str x0, [x4]\n")
    leaf = [(a, d) for a, d in job.memory.items() if a != 0x8000_1000][-1]
    index = 0x8000_1000 >> 12 & 511
    word = int.from_bytes(leaf[1][8 * index : 8 * index + 8], "little")
    assert word & 3 == 3

    def with_leaf(value: int) -> Job:
        data = leaf[1][: 8 * index] + value.to_bytes(8, "little") + leaf[1][8 * index + 8 :]
        registers = {**job.registers, "x4": 0x8000_1800}
        return replace(job, memory={**job.memory, leaf[0]: data}, registers=registers)

    assert run(with_leaf(word)).reached
    readonly, never = run(with_leaf(word | 1 << 7)).death, run(with_leaf(word | 1 << 54)).death
    assert readonly is not None
    assert never is not None
    assert (readonly.access, readonly.far, readonly.status) == ("store", 0x8000_1800, 0b001111)
    assert (never.access, never.status) == ("fetch", 0b001111)
    unflagged = run(with_leaf(word & ~(1 << 10))).death
    assert unflagged is not None
    assert unflagged.status == 0b001011  # Access flag fault, level 3


def test_a_program_that_does_not_end() -> None:
    death = run(replace(bare("1: b 1b\nnop"), limit=50)).death
    assert death is not None
    assert death.why == "still running after 50 instructions"


@pytest.mark.parametrize(
    ("text", "registers", "why"),
    [
        ("tlbi rvae2, x0", {}, "does not have it"),
        ("msr pir_el1, x0", {"HCR_EL2": 1 << 34}, "does not have it"),
    ],
)
def test_what_the_cpu_lacks_is_refused(text: str, registers: dict[str, int], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        run(bare(text, **registers))


@pytest.mark.parametrize("base", [SEATTLE, LOW])
def test_enter_vhe_arrives(base: int) -> None:
    job = planned_job("vhe", emulate_jobs.kernel("6.1", "4K", 39, base), [(base, 4 << 30)])
    both = run_both(job)
    for outcome in (both.warm, both.cold, replay(job)):
        assert outcome.reached
        last = outcome.executed[-1].state
        assert (last.el, last.mmu, last.t0sz) == (2, True, 24 if base == SEATTLE else 25)
        assert last.ttbr1 == outcome.registers["TTBR1_EL2"] == job.registers["x3"]
        assert outcome.registers["TTBR1_EL1"] == 0
    assert both.stale is None


def host_job(text: str) -> Job:
    """The MMU of EL2&0 turned on by the EL1 names, then *text* with x6 at a page of TTBR1_EL2."""
    base, code, high = 0x8000_0000, 0x8000_1000, 0xFFFF_FF80_0000_0000
    low = build(
        [Region(VA(code), PA(code), 0x1000, Attributes(access="rx"))],
        table_params(EL20, "4K", 39),
        base=base + 0x10000,
    )
    top = build(
        [Region(VA(high), PA(code), 0x1000, Attributes(access="rw"))],
        table_params(EL20, "4K", 39, upper=True),
        base=base + 0x20000,
    )
    # T0SZ, TG0 and their attributes from one, T1SZ and TG1 from the other; EPD0 and EPD1 clear.
    tcr = low.registers["TCR_EL2"] & 0x3F7F | top.registers["TCR_EL2"] & ~0x80_FFFF
    values = {"x0": low.root, "x1": top.root, "x2": tcr, "x3": low.registers["MAIR_EL2"]}
    values |= {"x4": low.registers["SCTLR_EL2"], "x6": high, "HCR_EL2": 1 << 34 | 1 << 27}
    enable = """
        msr ttbr0_el1, x0
        msr ttbr1_el1, x1
        msr tcr_el1, x2
        msr mair_el1, x3
        isb
        tlbi vmalle1
        dsb nsh
        isb
        msr sctlr_el1, x4
        isb
    """
    return text_job("host", enable + text, code, low.pages() | top.pages(), values, 2)


def test_both_tables_of_a_host_are_walked() -> None:
    """And an MRS reads what the MSR wrote: x8 is TTBR1_EL2."""
    for text, reached in (
        ("ldr x7, [x6]", True),
        ("mrs x8, ttbr1_el1\n sub x9, x8, x1\n cbnz x9, 1f\n ldr x7, [x6]\n1: nop", True),
        ("ldr x7, [x6, #4096]", False),
        ("br x6", False),
    ):
        job = host_job(text)
        both, ours = run_both(job), replay(job)
        for outcome in (both.warm, both.cold, ours):
            if reached:
                assert outcome.reached, (text, outcome)
                assert any(step.text.startswith("ldr") for step in outcome.executed), text
                continue
            death, expected = outcome.death, ours.death
            assert death is not None
            assert expected is not None
            assert (death.pc, death.far, death.status) == (
                expected.pc,
                expected.far,
                expected.status,
            )


def test_the_names_of_el1_under_e2h() -> None:
    """MSR and MRS of EL1 and _EL12 names; XZR; a register that translation does not know."""
    text = "msr tcr_el12, x0\n mrs x1, tcr_el12\n msr vbar_el1, x0\n msr tcr_el1, xzr\n nop"
    outcome = run(bare(text, HCR_EL2=1 << 34, x0=0x1_0000))
    assert outcome.reached
    assert outcome.registers["TCR_EL1"] == 0x1_0000
    assert outcome.registers["TCR_EL2"] == 0


def test_52_bits_are_refused() -> None:
    job = enable_job(0x8000_0000, 48)
    tcr = job.registers["x1"]
    for changed, why in ((tcr | 1 << 32, "FEAT_LPA2"), (tcr & ~63 | 40, "FEAT_TTST")):
        with pytest.raises(UnsupportedError, match=why):
            run(replace(job, registers={**job.registers, "x1": changed}))


def test_memory_beyond_44_bits_is_refused() -> None:
    """With the MMU off its CPU takes an Address size fault at the first instruction."""
    job = bare("nop")
    with pytest.raises(
        UnsupportedError, match="0x100000000000: its physical addresses have 44 bits"
    ):
        run(replace(job, memory={**job.memory, 1 << 44: bytes(4096)}))

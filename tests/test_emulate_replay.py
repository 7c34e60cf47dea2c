"""The proof's verdicts under real instructions: SAFE runs, a counterexample is seen to fail."""

from dataclasses import replace
from pathlib import Path

import pytest

import emulate_jobs
from emulate_jobs import SCENARIOS, enable_job, strategy_jobs
from emulate_tables import needs_qemu, needs_unicorn
from ttbr.arch.attributes import PR
from ttbr.arch.faults import FaultKind
from ttbr.arch.features import Features
from ttbr.build import Arena
from ttbr.emulate import qemu_run
from ttbr.emulate.held import Held, Resume, held_of
from ttbr.emulate.jobs import plan_job
from ttbr.emulate.replay import replay
from ttbr.emulate.run import Job, Outcome
from ttbr.emulate.unicorn_run import run, run_both
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.realise import realise
from ttbr.linux.strategies import plan
from ttbr.switch.judge import ATTR, BBM, FAULT, JUNK_WALK, UNKNOWN_TLB
from ttbr.switch.prove import prove
from ttbr.switch.saturate import Stop
from ttbr.switch.tlb import CONFLICT

pytestmark = needs_unicorn

FILES = sorted(SCENARIOS.glob("*.toml"))
WIDE = ("S29b-lpa2-with-the-mmu-off",)
BASE = 0x80_8000_0000


def same(ours: Outcome, theirs: Outcome) -> None:
    """Both went the same way; the faults' levels and kinds are equal."""
    assert [(e.pc, e.pa) for e in ours.executed] == [(e.pc, e.pa) for e in theirs.executed]
    if ours.death is None or theirs.death is None:
        assert ours.death is theirs.death
        return
    first, second = ours.death, theirs.death
    assert (first.pc, first.access, first.far) == (second.pc, second.access, second.far)
    assert first.status == second.status


@pytest.mark.parametrize("bits", [39, 40, 48])
def test_our_walk_and_unicorns_own_agree(bits: int) -> None:
    job = enable_job(BASE, bits)
    same(replay(job), run(job))


@pytest.mark.parametrize(("board", "name"), list(strategy_jobs()))
def test_every_strategy_arrives_under_our_walk(board: str, name: str) -> None:
    job = emulate_jobs.strategy_job(board, name)
    ours = replay(job)
    assert ours.death is None
    same(ours, run(job))


@pytest.mark.parametrize("name", ["mmu-off", "single-split", "always-48"])
def test_52_bits_run(name: str) -> None:
    """FEAT_LPA2, which Unicorn's own MMU does not have."""
    base = 0x8000_0000
    config = emulate_jobs.kernel("6.12", "4K", 52, base, va52=True)
    found = plan(name, config, [(base, 16 << 30)])
    job = plan_job(realise(found, Arena.at(config.image.end + (16 << 20), config.granule)))
    outcome = replay(job)
    assert outcome.death is None
    assert outcome.executed[-1].pc >> 48
    with pytest.raises(UnsupportedError, match="FEAT_LPA2"):
        run(job)


def test_features_that_are_not_there() -> None:
    base = 0x8000_0000
    config = emulate_jobs.kernel("6.12", "4K", 52, base, va52=True)
    made = realise(
        plan("always-48", config, [(base, 16 << 30)]),
        Arena.at(config.image.end + (16 << 20), config.granule),
    )
    with pytest.raises(InvalidError, match=r"TCR_EL2\.T0SZ=12 is out of range"):
        replay(plan_job(made), features=Features(lpa2=frozenset()))


CODE = BASE + 0x1000
LAST = CODE + 0x20  # the NOP at the end: instruction 8


def test_a_held_translation_is_used_while_it_lasts() -> None:
    job = enable_job(BASE, 48)
    other = BASE + 0x5000
    job = replace(job, memory={**job.memory, other: job.memory[CODE]})
    held = Held(CODE, 0x1000, other, first=7, last=7)
    outcome = replay(job, [held])
    assert outcome.reached
    assert [e.pa for e in outcome.executed][6:] == [CODE + 0x18, other + 0x1C, LAST]


def test_a_held_translation_that_leads_astray_ends_the_run() -> None:
    held = Held(CODE, 0x1000, 0x9000_0000, first=7, last=7, intended=CODE, why="a stale entry")
    death = replay(enable_job(BASE, 48), [held]).death
    assert death is not None
    assert death.pc == death.far == CODE + 0x1C
    assert death.why == f"PA {0x9000_0000:#x} in place of {CODE:#x}: a stale entry"


def test_a_held_translation_without_the_permission() -> None:
    death = replay(enable_job(BASE, 48), [Held(CODE, 0x1000, CODE, PR, 7, 7)]).death
    assert death is not None
    assert (death.access, death.why) == ("fetch", "execute is not permitted: a held TLB entry")


def test_a_walk_with_registers_that_are_not_synchronized() -> None:
    """A root of four levels walked with the T0SZ of three: the address is out of range."""
    job = enable_job(BASE, 48)
    tcr = job.registers["x1"]
    mixed = Held(CODE, 0x1000, None, first=7, registers={"TCR_EL2": tcr & ~63 | 25})
    death = replay(job, [mixed]).death
    assert death is not None
    assert death.fault is not None
    assert death.pc == CODE + 0x1C
    assert death.fault.kind is FaultKind.TRANSLATION


def test_data_accesses_meet_the_held_entries_too() -> None:
    text = emulate_jobs.ENABLE + "ldr x5, [x4]\n"
    job = enable_job(BASE, 48, text)
    job = replace(job, registers={**job.registers, "x4": CODE})
    assert replay(job).reached
    death = replay(job, [Held(CODE, 0x1000, 0x9000_0000, PR, 8, 8, intended=CODE)]).death
    assert death is not None
    # The fetch of instruction 8 is refused first: the entry allows reading only.
    assert death.access == "fetch"
    data = replay(
        replace(job, registers={**job.registers, "x4": CODE + 0x800}),
        [Held(CODE + 0x800, 0x400, None, first=8, last=8, why="no data")],
    ).death
    assert data is not None
    assert (data.access, data.far, data.why) == ("load", CODE + 0x800, "no data")


def test_a_walk_that_goes_on_at_a_held_table() -> None:
    """The root, of level 0, as a held partial walk takes it: for what it is, and for level 1."""
    job = enable_job(BASE, 48)
    root = job.registers["x0"]
    registers = {"TCR_EL2": job.registers["x1"]}
    held = Held(CODE, 0x1000, None, first=7, registers=registers, resume=Resume(0, root, 12))
    outcome = replay(job, [held])
    assert outcome.reached
    assert outcome.held == (f"{CODE:#x} -> {CODE:#x}, as asked",)
    outcome = replay(job, [replace(held, resume=Resume(1, root, 12))])
    assert outcome.death is not None
    assert outcome.death.status == 0b000101  # Translation fault, level 1
    assert not outcome.death.decreed
    assert outcome.held == (f"{CODE:#x} -> Translation fault, level 1, as asked",)


def test_an_entry_that_memory_never_had_is_not_held() -> None:
    held = Held(CODE, 0x1000, 0x9000_0000, first=7, intended=CODE, descriptors={BASE + 0x10000: 5})
    outcome = replay(enable_job(BASE, 48), [held])
    assert outcome.reached
    assert outcome.held == ()


def test_a_decreed_entry_is_no_observation() -> None:
    held = Held(CODE, 0x1000, None, first=7, decreed=True, source="from #3", why="anything")
    outcome = replay(enable_job(BASE, 48), [held])
    assert outcome.death is not None
    assert outcome.death.decreed
    assert outcome.held == (f"{CODE:#x} -> not known, from #3",)
    assert "anything [as the proof allows, not observed]" in str(outcome)


@pytest.mark.parametrize(
    "stem", ["S15-trampoline-without-tlbi", "S62-invalid-to-valid-without-isb"]
)
def test_a_false_finding_is_not_seen_to_fail(stem: str) -> None:
    """The partial walk of a finding is made to lead to a table that the memory never named."""
    problem, job = emulate_jobs.scenario(SCENARIOS / f"{stem}.toml")
    finding = next(f for f in prove(problem).findings if f.kind == FAULT)
    outcome = finding.outcome
    assert isinstance(outcome, Stop)
    assert outcome.parent is not None
    assert replay(job).reached
    assert not replay(job, held_of(finding)).reached
    other = finding.access.va | 0xFFF
    wrong = outcome._replace(
        parent=outcome.parent._replace(descriptor=other), location=0, value=other
    )
    assert replay(job, held_of(finding._replace(outcome=wrong))).reached


# Where every finding of the kind dies because the proof says so: the entries lead to one place, or
# what is read as a table is not in the emulated memory. What is in no table at all always does.
DECREED = {
    "S14b-kvm-trampoline-strict": {CONFLICT},
    "S27-mair-index-in-use": {CONFLICT},
    "S41-ttbr1-replaced-directly": {CONFLICT},
    "S55-memory-type-changes": {CONFLICT},
    "S57-block-split": {CONFLICT},
    "S58-pages-merged": {CONFLICT},
    "S59-contiguous-bit-one-by-one": {CONFLICT},
    "S67-made-global": {CONFLICT},
    "S71b-enable-mmu-without-isb": {CONFLICT, JUNK_WALK},
}


def test_what_an_access_can_show_is_never_decreed() -> None:
    assert {kind for kinds in DECREED.values() for kind in kinds} == {CONFLICT, JUNK_WALK}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_catalogue(path: Path) -> None:
    """SAFE arrives, on Unicorn warm and cold and under our walk; each counterexample dies where
    the proof says, except those that no access shows. All but those in DECREED are observed."""
    problem, job = emulate_jobs.scenario(path)
    result = prove(problem)
    ours = replay(job)
    if result.safe:
        _arrives(path.stem, job, ours)
    for finding in result.findings:
        if finding.kind in (ATTR, BBM):
            with pytest.raises(UnsupportedError, match=finding.kind):
                held_of(finding)
            continue
        outcome = replay(job, held_of(finding))
        assert outcome.death is not None, finding
        decreed = finding.kind in DECREED.get(path.stem, set()) | {UNKNOWN_TLB}
        plain = ours.death is not None and outcome.death == ours.death
        assert outcome.death.decreed == (decreed and not plain), finding
        # A sequence that dies on a plain CPU may do so before; then that is found too.
        steps = {f.access.step for f in result.findings} if plain else {finding.access.step}
        assert len(outcome.executed) - (outcome.death.access != "fetch") in steps
        assert plain or outcome.held


def _arrives(stem: str, job: Job, ours: Outcome) -> None:
    assert ours.death is None
    if stem in WIDE:
        with pytest.raises(UnsupportedError, match="FEAT_LPA2"):
            run(job)
        return
    both = run_both(job)
    assert both.warm.death is None
    assert both.stale is None


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_catalogue_on_qemu(path: Path) -> None:
    problem, job = emulate_jobs.scenario(path)
    outcome = qemu_run.run(job)
    if prove(problem).safe:
        assert outcome.death is None

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
from ttbr.emulate.jobs import plan_job
from ttbr.emulate.replay import Held, held_of, replay
from ttbr.emulate.run import Outcome
from ttbr.emulate.unicorn_run import run, run_both
from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.realise import realise
from ttbr.linux.strategies import plan
from ttbr.switch.judge import ATTR, BBM
from ttbr.switch.prove import prove

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
    assert (death.access, death.why) == ("fetch", "a held TLB entry")


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_catalogue(path: Path) -> None:
    """SAFE arrives, on Unicorn warm and cold and under our walk; each counterexample dies where
    the proof says, except those that no access shows."""
    problem, job = emulate_jobs.scenario(path)
    result = prove(problem)
    ours = replay(job)
    if result.safe:
        assert ours.death is None
        if path.stem in WIDE:
            with pytest.raises(UnsupportedError, match="FEAT_LPA2"):
                run(job)
        else:
            both = run_both(job)
            assert both.warm.death is None
            assert both.stale is None
    for finding in result.findings:
        if finding.kind in (ATTR, BBM):
            with pytest.raises(UnsupportedError, match=finding.kind):
                held_of(finding)
            continue
        outcome = replay(job, held_of(finding))
        assert outcome.death is not None, finding
        # A sequence that dies on a plain CPU may do so before.
        step = len(outcome.executed) - (outcome.death.access != "fetch")
        assert step == finding.access.step or (
            ours.death is not None and outcome.death == ours.death
        )


@needs_qemu
@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_catalogue_on_qemu(path: Path) -> None:
    problem, job = emulate_jobs.scenario(path)
    outcome = qemu_run.run(job)
    if prove(problem).safe:
        assert outcome.death is None

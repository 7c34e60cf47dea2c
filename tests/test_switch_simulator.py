"""The proof against a concrete machine that caches and synchronises at random.

The machine (`concrete_machine`) has its own decoder, TLB and registers. Whatever it does in a run
must be among the kinds that the proof names; and for each kind that the proof names there is a run
that shows it, so that a proof neither misses anything nor raises a false alarm.

BBM is a rule about stores rather than something that happens, so only the catalogue is compared in
it. Where the proof names JUNK-WALK or UNKNOWN-TLB anything may follow, and only the witnesses count.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from concrete_machine import Plan, kinds, run
from concrete_random import random_problem
from concrete_scenario import scenario_of
from switch_catalogue import OTHER_PA, ROWS, TARGET, TARGET_PA, TEXT, USER_PA, Kernel
from switch_tables import M_ON, MAIR, Arena, Trace, page, tcr2
from ttbr.switch.problem import ASSUMPTIONS, Intent, Problem
from ttbr.switch.program import Dc, Dsb, Isb, Msr, Tlbi
from ttbr.switch.prove import prove

LEAST, MOST = 60, 60_000
PROGRAMS, CHUNK = 600, 50


def seen(problem: Problem, wanted: set[str], least: int = LEAST) -> set[str]:
    """The kinds that runs show: at least *least* runs, more while one of *wanted* is missing.

    Every other run stops at its first misbehaviour; the rest goes on and shows those behind it.
    """
    plan = Plan(scenario_of(problem))
    found: set[str] = set()
    for seed in range(MOST if wanted else least):
        if seed >= least and found >= wanted:
            break
        if seed & 1:
            found |= kinds(plan, seed) & wanted  # what follows the first one is only a witness
        else:
            first = run(plan, seed)
            found |= {first.kind} if first else set()
    return found


def without_steps(problem: Problem) -> Iterator[Problem]:
    """The problem with the event of each step left out in turn; the step is still fetched."""
    steps = problem.steps
    for i, step in enumerate(steps):
        if step.events and isinstance(step.events[0], Isb | Dsb | Tlbi | Msr | Dc):
            yield replace(problem, steps=(*steps[:i], replace(step, events=()), *steps[i + 1 :]))


def with_swapped_steps(problem: Problem) -> Iterator[Problem]:
    """The problem with two neighbouring steps swapped, in each place where that means something."""
    steps = problem.steps
    plain = Isb | Dsb | Tlbi | Msr | Dc
    for i, (a, b) in enumerate(pairwise(steps)):
        if a.events != b.events and all(isinstance(e, plain) for e in a.events + b.events):
            pair = (replace(b, pc=a.pc), replace(a, pc=b.pc))
            yield replace(problem, steps=(*steps[:i], *pair, *steps[i + 2 :]))


def differences(problem: Problem) -> str:
    """How the runs differ from the proof, apart from BBM; empty if they do not."""
    predicted = set(prove(problem).kinds)
    found = seen(problem, predicted - {"BBM"})
    missed, alarms = found - predicted, predicted - found - {"BBM"}
    if predicted:
        missed -= {"BBM"}
    if predicted & {"JUNK-WALK", "UNKNOWN-TLB"}:
        missed.clear()
    text = [f"seen but not predicted: {sorted(missed)}"] if missed else []
    text += [f"predicted but not seen: {sorted(alarms)}"] if alarms else []
    return "; ".join(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_catalogue(name: str) -> None:
    row = ROWS[name]
    assert seen(row.make(), set(row.kinds), 300) == row.kinds


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_catalogue_without_a_step(name: str) -> None:
    assert not [text for p in without_steps(ROWS[name].make()) if (text := differences(p))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_catalogue_with_swapped_steps(name: str) -> None:
    assert not [text for p in with_swapped_steps(ROWS[name].make()) if (text := differences(p))]


CHANGES: tuple[dict[str, Any], ...] = (
    *({"bbm": level} for level in ("1", "2", "2na")),
    {"ets2": True},
    {"ntlbpa": True},
    *({"assumptions": frozenset(ASSUMPTIONS) - {name}} for name in ASSUMPTIONS),
)
# A set has no order: not for names of tests, which must be the same in every process.
NAMES = (
    "bbm 1",
    "bbm 2",
    "bbm 2na",
    "ets2",
    "ntlbpa",
    *(f"without {name}" for name in ASSUMPTIONS),
)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_catalogue_under_other_options(change: dict[str, Any]) -> None:
    found = {}
    for name, row in ROWS.items():
        problem = row.make()
        found[name] = differences(replace(problem, options=replace(problem.options, **change)))
    assert not {name: text for name, text in found.items() if text}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, PROGRAMS, CHUNK))
def test_random_programs(first: int) -> None:
    found = {n: differences(random_problem(n)) for n in range(first, first + CHUNK)}
    assert not {n: text for n, text in found.items() if text}


def test_random_programs_are_of_both_sorts() -> None:
    safe = [prove(random_problem(n)).safe for n in range(100)]
    assert 30 <= sum(safe) <= 80


def test_a_store_while_the_mmu_comes_on() -> None:
    """Without an ISB after M=1 the store may be Device, which a cacheable walk does not see."""
    arena = Arena()
    root = arena.table()
    code, data = 0x8000_1000, 0x9000_0000
    arena.map(root, code, code, 39)
    arena.map(root, arena.base, arena.base, 39, level=2)
    at = arena.location(root, data, 3, 39)
    registers = {"TTBR0_EL2": root, "TCR_EL2": tcr2(25), "SCTLR_EL2": 0x1004, "MAIR_EL2": MAIR}
    trace = Trace(code).tlbi("ALLE2").dsb("SY").isb().msr("SCTLR_EL2", M_ON)
    trace.store(at, page(0xA000_0000)).dsb("SY").isb().ldr(data)
    intent = (
        Intent(code & -4096, 4096, code & -4096),
        Intent(arena.base, 0x20_0000, arena.base),
        Intent(data, 4096, 0xA000_0000),
    )
    problem = Problem(arena.memory(), arena.extents, registers, trace.done, intent)
    assert seen(problem, {"ATTR", "FAULT"}) == {"ATTR", "FAULT"}
    assert set(prove(problem).kinds) == {"ATTR", "FAULT"}


def test_what_a_junk_walk_caches_stays() -> None:
    """cpu_setup with the ISB before TTBR1: a walk under the old one may have left anything."""
    problem = ROWS["S71"].make()
    a, b = problem.steps[5:7]
    pair = (replace(b, pc=a.pc), replace(a, pc=b.pc))
    problem = replace(problem, steps=(*problem.steps[:5], *pair, *problem.steps[7:]))
    assert seen(problem, {"JUNK-WALK"}) == {"JUNK-WALK"}
    assert "JUNK-WALK" in prove(problem).kinds


def test_what_is_made_from_an_entry_before_its_tlbi_is_complete() -> None:
    """Until the DSB the old link still leads into the old table; a leaf made by it may stay.

    The TLBI names another page of that table (R_TGVWD: nothing is guaranteed before the DSB).
    """
    k = Kernel()
    second = TARGET + 4096
    leaf = k.map(k.root, TARGET, TARGET_PA)
    link = k.arena.location(k.root, TARGET & (1 << 39) - 1, 2, 39)
    fresh = k.arena.table()
    k.arena.put(fresh + 8 * (second >> 12 & 511), page(OTHER_PA))
    t = Trace(TEXT, el=1).store(k.alias(link), 0).dsb("ISH").tlbi("VAE1IS", TARGET)
    t.store(k.alias(leaf + 8), page(USER_PA)).dsb("ISH").isb()
    t.store(k.alias(link), fresh | 3).dsb("ISH").isb().ldr(second)
    problem = k.problem(t, Intent(second, 4096, OTHER_PA))
    assert seen(problem, {"WRONG-PA", "CONFLICT"}) >= {"WRONG-PA", "CONFLICT"}
    assert set(prove(problem).kinds) >= {"WRONG-PA", "CONFLICT"}


def test_a_witness_can_be_read() -> None:
    plan = Plan(scenario_of(ROWS["S16"].make()))
    witness = next(m for seed in range(MOST) if (m := run(plan, seed)))
    text = str(witness)
    assert text.startswith("FAULT at #5: fetch of 0x4000001000")
    assert "partial walk of 0x4000000000+0x40000000" in text

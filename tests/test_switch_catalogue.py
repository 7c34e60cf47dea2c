"""The catalogue: every row has its verdict kinds, its assumptions, and its load-bearing barriers."""

from dataclasses import replace

import pytest

from switch_catalogue import ROWS, replace_ttbr1, trampoline
from ttbr.switch.problem import A_CTRL, A_DSB, A_IC, ASSUMPTIONS, Options, Problem
from ttbr.switch.program import Dsb, Isb, Tlbi
from ttbr.switch.prove import prove, prove_all

PLAIN_SAFE = [
    name for name, row in ROWS.items() if not row.kinds and row.make().options == Options()
]


def without_step(problem: Problem, number: int) -> Problem:
    """The problem with the event of one step left out; the step is still fetched."""
    steps = list(problem.steps)
    steps[number] = replace(steps[number], events=())
    return replace(problem, steps=tuple(steps))


def test_there_are_sixty_rows() -> None:
    assert len(ROWS) == 60


@pytest.mark.parametrize("name", ROWS)
def test_verdict_kinds(name: str) -> None:
    result = prove(ROWS[name].make())
    assert set(result.kinds) == ROWS[name].kinds
    assert result.safe == (not ROWS[name].kinds)


# Which assumption a safe row rests on; the others are safe under every reading.
ASSUMING = {
    "S01": (A_DSB,),
    "S02": (A_DSB,),
    "S14": (A_IC,),
    "S23b": (A_DSB,),
    "S40": (A_CTRL,),
}


@pytest.mark.parametrize("name", PLAIN_SAFE)
def test_assumptions(name: str) -> None:
    proof = prove_all(ROWS[name].make())
    assert proof.safe
    assert proof.assuming == ASSUMING.get(name, ())


@pytest.mark.parametrize(
    ("name", "dropped", "kinds"),
    [
        ("S01", A_DSB, {"UNKNOWN-TLB"}),
        ("S14", A_IC, {"CONFLICT"}),
        ("S40", A_CTRL, {"FAULT"}),
    ],
)
def test_kinds_of_the_strict_readings(name: str, dropped: str, kinds: set[str]) -> None:
    problem = ROWS[name].make()
    strict = replace(problem, options=problem.options.without(dropped))
    assert set(prove(strict).kinds) == kinds


def test_variants_that_rest_on_a_ic() -> None:
    """S15b, S20b: nothing valid near the run-time address; S41b: the text keeps its size."""
    for problem in (
        trampoline("ttbr", "isb"),
        trampoline("ttbr", "isb", "tlbi", "dsb", "isb"),
        replace_ttbr1(reserved=False, new_level=3),
    ):
        assert prove_all(problem).verdict == "SAFE assuming {A-IC}"


@pytest.mark.parametrize("name", ROWS)
def test_a_stricter_reading_never_makes_safe(name: str) -> None:
    problem = ROWS[name].make()
    base = problem.options.assumptions
    kinds = set(prove(problem).kinds)
    for assumption in ASSUMPTIONS:
        strict = replace(problem, options=problem.options.without(assumption))
        assert set(prove(strict).kinds) >= kinds, assumption
        if assumption not in base:
            lax = replace(
                problem, options=replace(problem.options, assumptions=base | {assumption})
            )
            assert set(prove(lax).kinds) <= kinds, assumption


# The barriers of which each one carries the proof, by their position in the trace (None: no others).
LOAD_BEARING = {
    "S01": [3, 4, 5, 7],  # hyp-init: isb, tlbi, dsb, isb
    "S02": [3, 4, 5, 7],
    "S03": [1, 2, 4, 5, 7],  # pKVM: all five
    "S08c": [3, 4, 5, 7],  # enabling only: nothing of the T0SZ change
    "S40": [9, 12, 13, 14, 17, 26, 28],  # around the new TTBR1, and both final ISBs
    "S44b": [1],
    "S50": [1, 2, 3, 6, 7],  # not the isb after the TLBI's dsb
    "S57b": [],
    "S61": [1, 2],
    "S64b": [1, 2, 3, 7, 8],
    "S70": [1, 2, 3, 6],
    "S71": [0, 1, 6, 8],
}


@pytest.mark.parametrize("name", LOAD_BEARING)
def test_dropping_a_barrier(name: str) -> None:
    problem = ROWS[name].make()
    barriers = [
        number
        for number, step in enumerate(problem.steps)
        if any(isinstance(event, Isb | Dsb | Tlbi) for event in step.events)
    ]
    found = [n for n in barriers if not prove(without_step(problem, n)).safe]
    assert found == LOAD_BEARING[name]


def test_repaired_level_skip_needs_no_barrier_of_the_change() -> None:
    problem = ROWS["S08"].make()
    first = next(n for n, s in enumerate(problem.steps) if s.text.startswith("br "))
    for number in range(first, len(problem.steps)):
        if problem.steps[number].events and "TCR" not in problem.steps[number].text:
            assert prove(without_step(problem, number)).safe, problem.steps[number].text

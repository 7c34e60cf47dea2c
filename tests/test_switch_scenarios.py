"""The shipped scenarios: one file for each row of the catalogue, and a few variants."""

from dataclasses import replace
from functools import cache

import pytest

from captures import ROOT
from switch_catalogue import ROWS
from ttbr.errors import InvalidError, TtbrError
from ttbr.switch.judge import KINDS
from ttbr.switch.problem import A_CTRL, A_DSB, A_IC, ASSUMPTIONS, Options, Problem
from ttbr.switch.program import Dsb, Isb, Tlbi
from ttbr.switch.prove import SAFE, prove, prove_all
from ttbr.switch.scenario import Scenario, parse_scenario, read_scenario

FOLDER = ROOT / "examples" / "scenarios"
FILES = {path.stem.split("-")[0]: path for path in sorted(FOLDER.glob("*.toml"))}
VARIANTS = {
    *("S04c", "S15b", "S20b", "S23c", "S23d", "S41b", "S44e", "S54", "S68", "S71b", "S72"),
}
SAFE_ROWS = [name for name, row in ROWS.items() if not row.kinds]


@cache
def scenario(name: str) -> Scenario:
    return read_scenario(FILES[name])


def test_every_row_of_the_catalogue_has_a_file() -> None:
    assert len(list(FOLDER.iterdir())) == len(FILES)
    assert set(FILES) == set(ROWS) | VARIANTS
    assert not set(ROWS) & VARIANTS


@pytest.mark.parametrize("name", FILES)
def test_verdict(name: str) -> None:
    expected = scenario(name).expected
    assert expected is not None
    proof = prove_all(scenario(name).problem)
    assert (proof.result.kinds or (SAFE,)) == expected.verdict
    assert set(proof.assuming) == expected.assuming


@pytest.mark.parametrize("name", ROWS)
def test_file_and_catalogue_agree(name: str) -> None:
    expected, problem = scenario(name).expected, scenario(name).problem
    assert expected is not None
    assert set(expected.verdict) == (ROWS[name].kinds or {SAFE})
    options = ROWS[name].make().options
    assert problem.options == replace(options, features=None)
    assert problem.name == str(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_files_serve_as_documentation(name: str) -> None:
    found = scenario(name)
    assert found.name == FILES[name].stem
    assert 10 < len(found.title) < 90
    assert len(found.why) > 30
    assert found.rules
    assert len({other.title for other in map(scenario, FILES)}) == len(FILES)
    text = FILES[name].read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert text.index("[expect]") < text.index("[region]") < text.index("[program]")
    assert found.expected is not None
    order = list(KINDS)
    if found.expected.verdict != (SAFE,):
        assert sorted(found.expected.verdict, key=order.index) == list(found.expected.verdict)


# What each stricter reading makes of the scenarios that are safe; the others stay so.
REACT = {
    A_IC: {name: {"CONFLICT"} for name in ("S14", "S15b", "S20b", "S41b")},
    A_CTRL: {"S40": {"FAULT"}},
    A_DSB: {name: {"UNKNOWN-TLB"} for name in ("S01", "S02", "S23b")},
}


@pytest.mark.parametrize("assumption", ASSUMPTIONS)
def test_policy_matrix(assumption: str) -> None:
    names = [*SAFE_ROWS, "S15b", "S20b", "S41b"]
    assert REACT[assumption].keys() <= set(names)
    for name in names:
        problem = scenario(name).problem
        strict = replace(problem, options=problem.options.without(assumption))
        assert set(prove(strict).kinds) == REACT[assumption].get(name, set()), name


STRICT = ("S03", "S04b", "S08", "S08b", "S08c", "S29b", "S43b", "S44b", "S44d", "S70", "S71")


@pytest.mark.parametrize("name", STRICT)
def test_safe_under_all_strict_readings_together(name: str) -> None:
    problem = scenario(name).problem
    assert prove(replace(problem, options=Options().without(*ASSUMPTIONS))).safe


def barriers(problem: Problem) -> list[tuple[str, bool]]:
    """The barriers of a safe problem in order, each with whether the proof needs it."""
    found = []
    for number, step in enumerate(problem.steps):
        for event in step.events:
            if isinstance(event, Isb | Dsb | Tlbi):
                steps = list(problem.steps)
                steps[number] = replace(step, events=())
                safe = prove(replace(problem, steps=tuple(steps))).safe
                found.append((type(event).__name__, not safe))
    return found


# In these the catalogue has an ISB more or less: the exception's own, one before SCTLR.M=1, one
# after the DSB.
OTHER_BARRIERS = {"S04b", "S08", "S08b", "S08c", "S70"}


@pytest.mark.parametrize("name", [name for name in SAFE_ROWS if name not in OTHER_BARRIERS])
def test_the_same_barriers_carry_the_proof(name: str) -> None:
    assert barriers(scenario(name).problem) == barriers(ROWS[name].make())


def test_barriers_of_the_others() -> None:
    needed = {
        name: [kind for kind, yes in barriers(scenario(name).problem) if yes]
        for name in FILES
        if name in OTHER_BARRIERS
    }
    enable = ["Tlbi", "Dsb", "Isb"]  # one of two ISBs before M=1 is enough
    assert needed == {
        "S04b": ["Isb", "Tlbi", "Dsb", "Isb"],
        "S08": enable,
        "S08b": enable,
        "S08c": enable,
        "S70": ["Isb", "Tlbi", "Dsb", "Isb"],
    }


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("S01", 'regime = "EL2"', 'regime = "EL2', ":7:14: "),  # of the TOML
        ("S01", "        dsb     sy", "        dbs     sy", ":44:9: dbs"),
        ("S01", "        isb\n", "        msr     ttbr1_el2x, x0\n", ":42:17: msr: unknown system"),
        ("S01", "TCR_EL2 = 0\n", "TCR_EL1 = 0\nTTBR1_EL2 = 0\n", "TTBR1_EL2: the regime EL2 does"),
        ("S01", "TCR_EL2 = 0\n", "TCR_EL3 = 0\n", "TCR_EL3: the regime EL2 does not have it"),
        ("S50", 'x0 = "pte"', 'TTBR0_EL2 = 0\nx0 = "pte"', "TTBR0_EL2: the regime EL1&0 does"),
        ("S01", '"hyp.TTBR0_EL2"', "0x9000_0000", "TTBR0_EL2: the table at 0x90000000 is not in m"),
        (
            "S14",
            'from = "boot"',
            'from = "boot"\nTTBR0_EL2 = 0x9000_0000',
            "the table at 0x90000000",
        ),
        ("S01", "[intent]\n", '[intent]\nunmapped = "data"\n', "data contradicts itself"),
        ("S50", '"after"]', '"after", "before"]', "intent contradicts itself"),
        ("S14", "resume: nop", "resume: b resume", "the program never ends"),
        (
            "S59",
            "subs    x2, x2, #1",
            "subs    x2, x2, #0",
            "does not end within 65536 instruction",
        ),
        ("S71", 'register = "TCR_EL1"', 'register = "TCR"', "x1: has no fields here"),
        ("S71", 'register = "TCR_EL1"', "register = 5", "x1: register: 5 is not a string"),
        ("S14", "br      x1", "brk     #0", "brk: this instruction is not modelled"),
    ],
)
def test_bad_input_is_one_clear_line(name: str, old: str, new: str, message: str) -> None:
    text = FILES[name].read_text()
    assert old in text
    with pytest.raises(TtbrError) as caught:
        parse_scenario(text.replace(old, new, 1), "s.toml")
    assert str(caught.value).startswith("s.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_access_without_intent_is_refused_by_the_proof() -> None:
    head, intent = FILES["S01"].read_text().split("[intent]")
    found = parse_scenario(head + "[intent]" + intent.replace(', "data"', ""), "s.toml")
    with pytest.raises(InvalidError) as caught:
        prove(found.problem)
    message = "s.toml:48: 0x4000001024: ldr x6, [x5]: no intent says where 0x4000200000 should lead"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("msr     sctlr_el2, x2 ", "msr     tcr_el2, x1 "),
        ("enabled:isb", "        isb\nenabled:isb"),
    ],
)
def test_a_meant_fault_excuses_no_other_fetch(old: str, new: str) -> None:
    """`fault` in the intent is of the step that is marked: anywhere else the program would end."""
    text = FILES["S04b"].read_text()
    assert old in text
    found = parse_scenario(text.replace(old, new, 1), "s.toml")
    assert "FAULT" in prove(found.problem).kinds

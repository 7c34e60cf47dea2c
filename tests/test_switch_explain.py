"""Counterexamples, repairs, the drop-one table, and their text."""

from dataclasses import replace

import pytest

from switch_catalogue import ROWS, USER
from ttbr.switch.explain import drop_one, explain, repair
from ttbr.switch.prove import prove, prove_all
from ttbr.switch.tlb import Leaf, Part
from ttbr.switch.wording import (
    barrier_lines,
    explanation_lines,
    proof_lines,
    repair_line,
    repair_text,
)

# The cache lines that S23 stores descriptors to.
S23_LINES = (
    *(0x6000_0000, 0x6000_0800, 0x6000_1000, 0x6000_2000),
    *(0x6000_3000, 0x6000_4000, 0x6000_5000),
)
# What is to be inserted or moved, and before which step; None where no small change helps.
REPAIRS: dict[str, tuple[str, tuple[str, ...], int] | None] = {
    "S01b": ("insert", ("isb",), 6),
    "S15": ("insert", ("tlbi alle2", "dsb sy", "isb"), 2),
    "S16": ("insert", ("isb",), 1),
    "S19": ("insert", ("dsb sy",), 3),
    "S20": ("insert", ("isb",), 4),
    "S22": ("insert", ("tlbi alle2", "dsb sy", "isb"), 4),
    "S43": ("insert", ("tlbi vmalle1", "dsb sy"), 5),
    "S44": ("insert", ("tlbi vmalle1", "dsb sy", "isb"), 2),
    "S51": (
        "insert",
        ("str xzr, [0xffffff8060006000]", "dsb sy", "tlbi vmalle1", "dsb sy", "isb"),
        0,
    ),
    "S53": ("insert", ("dsb sy",), 1),
    "S62": ("insert", ("isb",), 2),
    "S63": ("insert", ("dsb sy",), 1),
    "S23": ("insert", ("dmb sy", *(f"dc civac, [{at:#x}]" for at in S23_LINES), "dsb sy"), 8),
    "S64": ("replace", ("tlbi vae1is",), 2),
    "S10": None,
    "S27": None,
}


@pytest.mark.parametrize("name", REPAIRS)
def test_repair(name: str) -> None:
    result = prove(ROWS[name].make())
    fix = repair(result)
    wanted = REPAIRS[name]
    if wanted is None:
        assert fix is None
        return
    assert fix is not None
    assert (fix.what, fix.texts, fix.step) == wanted
    assert prove_all(fix.problem).verdict == fix.verdict


def test_a_repair_tells_what_it_rests_on() -> None:
    """S15 needs a TLBI, and A-IC besides, as S14 does."""
    result = prove(ROWS["S15"].make())
    fix = repair(result)
    assert fix is not None
    assert fix.verdict == "SAFE assuming {A-IC}"
    assert repair_line(result, fix).endswith("[re-checked: SAFE assuming {A-IC}]")


def test_a_move_repairs_a_barrier_in_the_wrong_place() -> None:
    """S03 with its TLBI too early: while the MMU is still on."""
    problem = ROWS["S03"].make()
    steps = list(problem.steps)
    tlbi = next(i for i, s in enumerate(steps) if s.text.startswith("tlbi"))
    order = [tlbi, *(i for i in range(len(steps)) if i != tlbi)]
    moved = [replace(steps[i], pc=steps[at].pc, el=steps[at].el) for at, i in enumerate(order)]
    result = prove(replace(problem, steps=tuple(moved)))
    assert not result.safe
    fix = repair(result)
    assert fix is not None
    assert prove(fix.problem).safe
    assert fix.texts == ("tlbi alle2",)


def test_history_of_a_stale_entry() -> None:
    result = prove(ROWS["S43"].make())
    (wrong,) = (f for f in result.findings if f.kind == "WRONG-PA")
    (history,) = explain(wrong).histories
    assert isinstance(history.entry, Leaf)
    assert history.step == -1  # cached before the first instruction
    assert [f.level for f in history.path] == [1, 2, 3]
    assert history.resumed is None
    assert history.survived == ()


def test_history_of_a_mixed_walk() -> None:
    """S15: a partial walk of the old tree, then the hole in it."""
    result = prove(ROWS["S15"].make())
    (fault,) = result.findings
    (history,) = explain(fault).histories
    assert isinstance(history.entry, Part)
    assert history.config is not None
    assert history.config.values["TTBR0_EL2"] == result.problem.registers["TTBR0_EL2"]
    assert [f.level for f in history.path] == [1]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("S64", "it removes leaves only"),
        ("S19", "not completed by a DSB"),
        ("S53", "cached again before it completed"),
    ],
)
def test_why_a_tlbi_did_not_help(name: str, why: str) -> None:
    result = prove(ROWS[name].make())
    todo = [h for finding in result.findings for h in explain(finding).histories]
    found = set()
    while todo:
        history = todo.pop()
        found |= {reason for _, reason in history.survived}
        todo += [history.resumed] if history.resumed else []
    assert why in found


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.kinds])
def test_every_finding_can_be_told(name: str) -> None:
    result = prove(ROWS[name].make())
    for finding in result.findings:
        lines = explanation_lines(result, explain(finding))
        assert lines[0].startswith(f"{finding.kind}  at #")
        assert any(line.startswith(" possible") for line in lines)
        assert any(line.startswith(" rule") for line in lines)
        assert "None" not in "\n".join(lines)


def test_the_text_of_a_counterexample() -> None:
    result = prove(ROWS["S44"].make())
    wrong = next(f for f in result.findings if f.kind == "WRONG-PA")
    text = explanation_lines(result, explain(wrong))
    assert [*text, repair_line(result, repair(result))] == [
        "WRONG-PA  at #2 ldr [0x402000]  (test+0x8)",
        " read of 0x402000: may reach another physical address",
        " intended  PA 0xc0000000 Normal WB",
        " possible  PA 0xd0000000 Normal WB rwx/--x",
        " how",
        "   #0 (before the first instruction): walk under TTBR0_EL1=0x7000060006000 T0SZ=25 4K",
        "     L1@0x60006000=0x60007003 -> L2@0x60007010=0x60008003 -> L3@0x60008010=0xd0000f03",
        "     cached: leaf 0x402000 -> 0xd0000000 Normal WB rwx/--x (level 3, ASID 7)",
        " rule      R_NWYRD entries are not tagged by TTBR or TCR",
        " fix       insert tlbi vmalle1 ; dsb sy ; isb before #2 ldr [0x402000]  (test+0x8)"
        "  [re-checked: SAFE]",
    ]
    assert USER == 0x40_2000


def test_drop_one_table() -> None:
    assert barrier_lines(drop_one(ROWS["S50"].make())) == [
        "#1 dsb ish: without it WRONG-PA, CONFLICT, BBM",
        "#2 tlbi vae1is: without it WRONG-PA, CONFLICT, BBM",
        "#3 dsb ish: without it BBM",
        "#4 isb: without it SAFE only assuming {A-DSB} as well",
        "#6 dsb ish: without it FAULT",
        "#7 isb: without it FAULT",
    ]


def test_the_text_of_a_verdict() -> None:
    assert proof_lines(prove_all(ROWS["S14"].make())) == [
        "SAFE assuming {A-IC}",
        " without A-IC: CONFLICT",
    ]
    assert proof_lines(prove_all(ROWS["S03"].make())) == ["SAFE"]
    lines = proof_lines(prove_all(ROWS["S62"].make()))
    assert lines[0] == "UNSAFE"
    assert lines[1].startswith(" FAULT at #2 ldr [0xffffff8040000000]  (test+0x8): invalid")


def test_repair_text_of_a_move() -> None:
    result = prove(ROWS["S53"].make())
    fix = repair(result)
    assert fix is not None
    assert repair_text(result, fix) == "insert dsb sy before #1 tlbi vae1is  (test+0x4)"

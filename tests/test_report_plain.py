"""Answers as plain values: JSON can hold them, and they hold all that the answer does."""

import json
from typing import Any

from trees import (
    AF,
    BLOCK,
    CONT,
    DBM,
    EL0,
    GP,
    ISH,
    NG,
    PAGE,
    S2_NORMAL,
    S2_READ,
    UXN,
    Tree,
    el1_registers,
    stage2_registers,
)
from ttbr.arch.faults import Fault, FaultKind, fault_of_par
from ttbr.arch.regime import EL1, regime_of, stage2_of
from ttbr.report.plain import plain_fault, plain_run, plain_walk
from ttbr.walk import Run, Unreadable, runs, translate, translate_stage2

OUT = 0x4000_0000
LEAF = OUT | AF | NG | ISH | EL0 | UXN | GP | DBM | CONT | 5 << 55 | PAGE


def round_trip(value: object) -> Any:
    return json.loads(json.dumps(value))


def sample() -> tuple[Tree, dict[str, int]]:
    tree = Tree()
    return tree, el1_registers(tree.chain((0, 1, 2), LEAF), T0SZ=25)


def test_mapping() -> None:
    tree, registers = sample()
    va = 1 << 21 | 2 << 12 | 0x34
    answer = translate(tree.memory, regime_of(registers, EL1), va)
    body = round_trip(plain_walk(answer))
    assert body["va"] == hex(va)
    assert (body["pa"], body["ipa"], body["size"]) == ("0x40000034", None, 4096)
    assert int(body["par"], 16) == answer.par()
    assert body["stage2"] is None
    assert body["stage1"] == {
        "level": 3,
        "size": 4096,
        "descriptor": hex(LEAF),
        "permissions": "rw-/rw-",
        "memory": "Normal WB",
        "shareability": "ISH",
        "contiguous": True,
        "not_global": True,
        "access_flag": True,
        "guarded": True,
        "dirty_bit_modifier": True,
        "software": 5,
    }
    assert [step["kind"] for step in body["steps"]] == ["table", "table", "page"]
    assert [step["level"] for step in body["steps"]] == [1, 2, 3]


def test_fault() -> None:
    fault = Fault(FaultKind.PERMISSION, 3, 0x1000, 2, True, 0x8000, "why")
    body = round_trip(plain_fault(fault))
    assert body == {
        "fault": "Permission fault",
        "level": 3,
        "stage": 2,
        "s1ptw": True,
        "ipa": "0x8000",
        "status": 0b001111,
        "par": hex(fault.par()),
        "reason": "why",
    }
    assert fault_of_par(int(body["par"], 16)).kind is FaultKind.PERMISSION


def test_walk_that_faults() -> None:
    tree, registers = sample()
    body = round_trip(plain_walk(translate(tree.memory, regime_of(registers, EL1), 0)))
    assert (body["va"], body["fault"], body["level"]) == ("0x0", "Translation fault", 2)
    assert [step["kind"] for step in body["steps"]] == ["table", "invalid"]


def test_stage2_alone() -> None:
    tree = Tree()
    root = tree.table({1: 0x8000_0000 | AF | S2_READ | S2_NORMAL | BLOCK}, count=2)
    p = stage2_of(stage2_registers(root))
    for ipa, key in ((OUT | 8, "pa"), (0, "fault")):
        found, steps = translate_stage2(tree.memory, p, ipa)
        body = round_trip(plain_walk((ipa, found, steps)))
        assert body["ipa"] == hex(ipa)
        assert key in body
        assert len(body["steps"]) == 1


def test_runs() -> None:
    tree, registers = sample()
    half = regime_of(registers, EL1).half(0)
    (run,) = runs(tree.memory, half)
    assert isinstance(run, Run)
    body = round_trip(plain_run(run))
    assert (body["va"], body["size"], body["pa"], body["leaf_size"]) == (
        hex(run.va),
        4096,
        "0x40000000",
        4096,
    )
    assert "ipa" not in body
    item = Unreadable(0x1000, 0x2000, 2, 0x3000, "gone")
    assert round_trip(plain_run(item)) == {
        "va": "0x1000",
        "size": 0x2000,
        "level": 2,
        "table": "0x3000",
        "unreadable": "gone",
    }


def test_two_stages_have_two_leaves() -> None:
    tree = Tree()
    stage2 = tree.table({1: 0x8000_0000 | AF | S2_READ | S2_NORMAL | BLOCK}, count=2)
    root = tree.table({0: OUT | AF | BLOCK}) - OUT
    registers = el1_registers(root, T0SZ=25) | stage2_registers(stage2)
    body = round_trip(plain_walk(translate(tree.memory, regime_of(registers, EL1), 5)))
    assert (body["ipa"], body["pa"]) == ("0x40000005", "0x80000005")
    assert body["stage1"]["permissions"] == "rwx/--x"
    assert body["stage2"]["permissions"] == "r-x/r-x"
    assert body["permissions"] == "r-x/--x"

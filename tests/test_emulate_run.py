"""The values of a run."""

import pytest

from ttbr.arch.faults import FaultKind, fault_of_status
from ttbr.emulate.run import Death, Executed, Job, Outcome, State, blocks_of
from ttbr.errors import InvalidError

OFF = State(2, False, 0, None, 0)


def test_pieces_become_whole_pages_and_neighbours_join() -> None:
    blocks = blocks_of({0x1010: b"ab", 0x1FFE: b"cdef", 0x5000: b"x"})
    assert {a: len(b) for a, b in blocks.items()} == {0x1000: 0x2000, 0x5000: 0x1000}
    assert blocks[0x1000][0x10:0x13] == b"ab\0"
    assert blocks[0x1000][0xFFE:0x1002] == b"cdef"


def test_pieces_that_overlap_are_refused() -> None:
    with pytest.raises(InvalidError, match="0x1004 overlaps what ends at 0x1008"):
        blocks_of({0x1000: bytes(8), 0x1004: bytes(8)})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"el": 3}, "EL3: code runs at EL1 or EL2"),
        ({"registers": {"TTBR9_EL2": 0}}, "TTBR9_EL2"),
        ({"entry": 2}, "entry 0x2: not an instruction address"),
        ({"until": 1 << 64}, "until"),
        ({"memory": {1 << 52: b"x"}}, "memory at 0x10000000000000: beyond 52 bits"),
    ],
)
def test_a_job_that_cannot_be(changes: dict[str, object], text: str) -> None:
    fields = {"memory": {}, "registers": {}, "el": 2, "entry": 0, "until": 4} | changes
    with pytest.raises(InvalidError, match=text):
        Job("test", **fields)  # type: ignore[arg-type]


def test_registers_are_told_apart() -> None:
    job = Job("test", {}, {"x3": 5, "sp": 6, "TCR_EL2": 7}, 2, 0, 4)
    assert job.general == {3: 5}
    assert job.system == {"TCR_EL2": 7}


def test_an_instruction_is_shown_in_assembly() -> None:
    assert Executed(0, 0xD518_2000, 0, OFF).text.lower() == "msr ttbr0_el1, x0"
    assert Executed(0, 0xFFFF_FFFF, 0, OFF).text == ".inst 0xffffffff"


def test_an_outcome_is_one_line() -> None:
    job = Job("test", {}, {}, 2, 0, 0x40)
    fault = fault_of_status(0b000100)
    assert fault.kind is FaultKind.TRANSLATION
    death = Death(0x20, str(fault), "fetch", 0x20, fault, fault.status)
    dead = Outcome(job, "a CPU", (), death, {})
    assert not dead.reached
    assert str(dead) == (
        "test on a CPU: died at 0x20: fetch of 0x20: Translation fault, level 0 after 0 instructions"
    )
    assert str(Outcome(job, "a CPU", (), None, {})).endswith("reached 0x40 after 0 instructions")

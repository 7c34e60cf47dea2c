"""Windows and boards: what is refused, what is merged."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.arch.geometry import PA
from ttbr.boards.board import Board, Window, merge_adjacent
from ttbr.errors import InvalidError


def window(start: int, size: int, name: str = "") -> Window:
    return Window(PA(start), size, name)


def test_window_last_and_text() -> None:
    assert window(0x8000_0000, 0x1000).last == 0x8000_0FFF
    assert str(window(0x8000_0000, 0x1000, "DRAM")) == "DRAM 0x80000000-0x80000fff"
    assert window(2**64 - 1, 1).last == 2**64 - 1


@pytest.mark.parametrize(
    ("start", "size", "name", "message"),
    [
        (0x1000, 0, "DRAM", "window DRAM: start 0x1000, size 0x0"),
        (0x1000, -1, "DRAM", "size -0x1"),
        (-1, 1, "", "window without a name: start -0x1"),
        (2**64 - 1, 2, "", "end below 2\\^64"),
        (0, 1, "a\nb", "not one printable line"),
    ],
)
def test_refused_windows(start: int, size: int, name: str, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        window(start, size, name)


def test_overlapping_ram_names_both() -> None:
    with pytest.raises(InvalidError) as caught:
        Board("b", "B", (window(0x2000, 0x1000, "high"), window(0, 0x2001, "low")), source="b.dtb")
    assert str(caught.value) == "b.dtb: RAM low 0x0-0x2000 overlaps RAM high 0x2000-0x2fff"


def test_reserved_and_devices_may_overlap() -> None:
    twice = (window(0, 0x2000), window(0x1000, 0x1000))
    board = Board("b", "B", (window(0, 0x4000),), reserved=twice, mmio=twice)
    assert board.reserved == board.mmio == twice


def test_ram_is_merged_and_the_windows_are_kept() -> None:
    memory = (window(0x3000, 0x1000, "c"), window(0, 0x1000, "a"), window(0x1000, 0x1000, "a"))
    board = Board("b", "B", memory)
    assert board.memory == (memory[1], memory[2], memory[0])
    assert board.ram == (window(0, 0x2000, "a"), window(0x3000, 0x1000, "c"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from("ab"))))
def test_merge_keeps_every_byte(steps: list[tuple[int, int, str]]) -> None:
    windows, at = [], 0
    for gap, size, name in steps:
        windows.append(window(at + gap, size, name))
        at += gap + size
    merged = merge_adjacent(windows)
    assert {a for w in merged for a in range(w.start, w.last + 1)} == {
        a for w in windows for a in range(w.start, w.last + 1)
    }
    assert all(high.start > low.last + 1 for low, high in pairwise(merged))

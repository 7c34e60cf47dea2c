"""The TOML form of a board."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbr.arch.geometry import PA
from ttbr.boards.board import Board, Window
from ttbr.boards.toml import format_board, read
from ttbr.errors import InvalidError, TtbrError, UnreadableError

TEXT = """
name = "seattle"
[[memory]]
start = 0x80_0000_0000
size = 0x4_0000_0000
[[mmio]]
start = 0xe101_0000
last = 0xe101_0fff
name = "UART"
"""


def test_read() -> None:
    board = read(TEXT, "my.toml")
    assert board == Board(
        "seattle",
        "seattle",
        (Window(PA(0x80_0000_0000), 0x4_0000_0000),),
        mmio=(Window(PA(0xE101_0000), 0x1000, "UART"),),
        source="my.toml",
    )


MEMORY = "[[memory]]\nstart = 0\nsize = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "b.toml: not TOML: "),
        ("x = " + "[" * 1900, "b.toml: not TOML: "),
        ("x = " + "1" * 1900, "b.toml: (not TOML|'x' is not a field)"),
        ("x = " + "1" * 5000, "b.toml: more than .* 2000 in a line"),
        (MEMORY, "b.toml: a board needs a name"),
        ("name = 1\n" + MEMORY, "b.toml: name must be a text"),
        ("name = 'b'", r"b.toml: a board needs at least one \[\[memory\]\]"),
        ("name = 'b'\nram = 1\n" + MEMORY, "b.toml: 'ram' is not a field of a board"),
        ("name = 'b'\nnotes = 'n'\n" + MEMORY, "b.toml: notes must be a list of texts"),
        ("name = 'b'\nconfidence = 'sure'\n" + MEMORY, "b.toml: confidence must be one of high"),
        ("name = 'b'\nmemory = 1", r"b.toml: memory must be written as \[\[memory\]\]"),
        ("name = 'b'\n[[memory]]\nstart = 0", "b.toml: memory 1: one of size and last"),
        ("name = 'b'\n" + MEMORY + "last = 0", "b.toml: memory 1: one of size and last"),
        ("name = 'b'\n" + MEMORY + "end = 0", "b.toml: memory 1: 'end' is not a field of a"),
        ("name = 'b'\n" + MEMORY + "name = 0", "b.toml: memory 1: name must be a text"),
        ("name = 'b'\n[[memory]]\nstart = true\nsize = 1", "memory 1: start must be a whole"),
        ("name = 'b'\n[[memory]]\nstart = 0\nsize = 0", "b.toml: memory 1: window without a name"),
        ("name = 'b'\n[[memory]]\nstart = 2\nlast = 0", "memory 1: .* size -0x1"),
        (f"name = 'b'\n[[memory]]\nstart = {2**64 - 1}\nsize = 2", "end below 2\\^64"),
    ],
)
def test_refused_text(text: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read(text, "b.toml")


def test_overlapping_ram_is_refused() -> None:
    with pytest.raises(InvalidError, match="RAM 0x0-0x0 overlaps RAM 0x0-0x0"):
        read("name = 'b'\n" + MEMORY * 2, "b.toml")


def test_hostile_keys_end_soon() -> None:
    start = time.perf_counter()
    with pytest.raises(TtbrError):
        read(f"{'.'.join('a' * 990)} = 1\n" * 130, "b.toml")
    assert time.perf_counter() - start < 10


NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=12)
STEPS = st.lists(st.tuples(st.integers(0, 2**50), st.integers(1, 2**50), NAMES), max_size=6)


def windows(steps: list[tuple[int, int, str]]) -> tuple[Window, ...]:
    found, at = [], 0
    for gap, size, name in steps:
        found.append(Window(PA(at + gap), size, name))
        at += gap + size
    return tuple(found)


@given(
    st.builds(
        Board,
        NAMES.filter(bool),
        NAMES.filter(bool),
        STEPS.filter(bool).map(windows),
        STEPS.map(windows),
        STEPS.map(windows),
        NAMES.filter(bool),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).map(tuple),
        st.sampled_from(["", "high", "medium", "low"]),
    )
)
def test_text_round_trip(board: Board) -> None:
    assert read(format_board(board), "b.toml") == board


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("[]memory= \n\"'0x_startizl.{},#\\"), max_size=100),
    st.integers(0, len(TEXT)),
)
def test_any_text(text: str, at: int) -> None:
    message = ""
    try:
        read(TEXT[:at] + text + TEXT[at:], "b.toml")
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message

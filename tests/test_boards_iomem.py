"""The /proc/iomem reader."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbr.boards import Board
from ttbr.boards.iomem import looks_like, read
from ttbr.errors import InvalidError, TtbrError, UnreadableError

CAPTURES = Path(
    os.environ.get("TTBR_CAPTURES", Path(__file__).parents[1] / "../shared/captures")
).resolve()
LISTINGS = sorted(CAPTURES.glob("*/iomem.txt"))

# The form of an RK3588's listing: no-map RAM is "reserved" at the top level.
TEXT = """\
0010f000-0010f0ff : 10f000.sram sram@10f000
00200000-e2bbffff : System RAM
  02010000-0474ffff : Kernel code
  daa00000-e29fffff : reserved
e2bc0000-ecbbffff : reserved
  e2bc0000-ecbbffff : reserved
ecbc0000-efffffff : System RAM
f0200000-f0ffffff : pcie@fe150000
  f0300000-f03fffff : PCI Bus 0000:01
    f0300000-f0303fff : 0000:01:00.0
      f0300000-f0303fff : nvme
100000000-3fbffffff : System RAM
"""


def spans(board: Board, kind: str) -> list[tuple[int, int, str]]:
    return [(w.start, w.last, w.name) for w in getattr(board, kind)]


def test_kinds() -> None:
    board = read(TEXT, "rk3588", "iomem.txt")
    assert spans(board, "memory") == [
        (0x20_0000, 0xE2BB_FFFF, "System RAM"),
        (0xE2BC_0000, 0xECBB_FFFF, "reserved"),
        (0xECBC_0000, 0xEFFF_FFFF, "System RAM"),
        (0x1_0000_0000, 0x3_FBFF_FFFF, "System RAM"),
    ]
    assert spans(board, "reserved") == [
        (0x201_0000, 0x474_FFFF, "Kernel code"),
        (0xDAA0_0000, 0xE29F_FFFF, "reserved"),
        (0xE2BC_0000, 0xECBB_FFFF, "reserved"),
    ]
    assert spans(board, "mmio") == [
        (0x10_F000, 0x10_F0FF, "10f000.sram sram@10f000"),
        (0xF020_0000, 0xF0FF_FFFF, "pcie@fe150000"),
    ]
    assert spans(board, "ram")[0] == (0x20_0000, 0xEFFF_FFFF, "")
    assert (board.name, board.source) == ("rk3588", "iomem.txt")


@pytest.mark.skipif(not LISTINGS, reason="no captures")
@pytest.mark.parametrize("file", LISTINGS, ids=lambda file: file.parent.name)
def test_captured_listing(file: Path) -> None:
    text = file.read_text()
    board = read(text, "capture", "iomem.txt")
    ram = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", text, re.M)
    assert [(w.start, w.last) for w in board.memory] == [(int(a, 16), int(b, 16)) for a, b in ram]
    count = len(text.splitlines())
    nested_devices = len(re.findall(r"^  .* : (?!reserved|Kernel)", text, re.M))
    kept = len(board.memory) + len(board.reserved) + len(board.mmio)
    assert kept + nested_devices == count


def test_names_that_are_ram() -> None:
    text = "40000000-4fffffff : System RAM (boot alias)\n"
    assert spans(read(text, "b", "i"), "memory")[0][2] == "System RAM (boot alias)"
    hot = "40000000-4fffffff : dax0.0\n  40000000-4fffffff : System RAM (kmem)\n"
    assert len(read(hot, "b", "i").memory) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends(end: str) -> None:
    assert len(read(f"00000000-00000fff : System RAM{end}", "b", "i").memory) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("00000000-00000000 : System RAM\n" * 9, "i: every address is zero: read .* as root"),
        ("\n\n", "i: no ranges"),
        ("00000000-00000fff : RAM\nnonsense\n", "i: line 2: 'nonsense' is not a line of"),
        ("00000000-00000fff - RAM", "i: line 1: "),
        ("1-2 : a\x1b[2J", "i: line 1: "),
        ("00001000-00000fff : RAM", "i: line 1: range 0x1000-0xfff is not a range"),
        ("0-fffffffffffffffff : RAM", "i: line 1: "),
        (" 0-f : RAM", "i: line 1: 1 spaces of indentation"),
        ("0-f : a\n    0-f : b", "i: line 2: 4 spaces of indentation"),
    ],
)
def test_refused_listings(text: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read(text, "b", "i")


def test_overlapping_ram_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"i: System RAM 0x0-0xfff overlaps System RAM"):
        read("0-fff : System RAM\n800-1fff : System RAM\n", "b", "i")


def test_looks_like() -> None:
    assert looks_like(TEXT)
    assert looks_like("# cat /proc/iomem\n" + TEXT)
    assert not looks_like("[[memory]]\nstart = 0-1 : 2")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789abcdef-: \nSystem RAMreserved"), max_size=200))
def test_any_text(text: str) -> None:
    message = ""
    try:
        read(text, "b", "i")
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message


WINDOWS = st.lists(
    st.tuples(
        st.integers(1, 2**40), st.integers(1, 2**40), st.sampled_from(["System RAM", "uart"])
    ),
    min_size=1,
    max_size=10,
)


@given(WINDOWS)
def test_text_round_trip(steps: list[tuple[int, int, str]]) -> None:
    lines, at = [], 0
    for gap, size, name in steps:
        lines.append(f"{at + gap:08x}-{at + gap + size - 1:08x} : {name}")
        at += gap + size
    board = read("\n".join(lines), "b", "i")
    windows = sorted((*board.memory, *board.mmio))
    assert [f"{w.start:08x}-{w.last:08x} : {w.name}" for w in windows] == lines

"""`load`: which reader a file gets, and what is refused."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ttbr.boards
from test_boards_fdt import END, blob, node, prop
from ttbr.boards import format_board, load, names, read
from ttbr.errors import InvalidError, TtbrError, UnreadableError

MEMORY = struct.pack(">2I", 0x8000_0000, 0x1000_0000)
CONTENTS = {
    "iomem": b"80000000-8fffffff : System RAM\n",
    "uefi": b"[    0.000000] efi:   0x000080000000-0x00008fffffff [Conventional|WB]\n",
    "toml": b"name = 'b'\n[[memory]]\nstart = 0x80000000\nsize = 0x10000000\n",
    "fdt": blob(
        node(
            b"",
            prop(0, (1).to_bytes(4, "big")),
            prop(15, (1).to_bytes(4, "big")),
            node(b"memory@80000000", prop(27, b"memory\0"), prop(39, MEMORY)),
        )
        + END,
        b"#address-cells\0#size-cells\0device_type\0reg\0",
    ),
}


@pytest.mark.parametrize("form", CONTENTS)
@pytest.mark.parametrize("suffix", [".dtb", ".txt", ".toml", ""])
def test_content_decides(tmp_path: Path, form: str, suffix: str) -> None:
    file = tmp_path / f"board{suffix}"
    file.write_bytes(CONTENTS[form])
    for argument in (file, str(file)):
        board = load(argument)
        assert [(w.start, w.size) for w in board.ram] == [(0x8000_0000, 0x1000_0000)]
    assert board.name == ("b" if form == "toml" else "board")
    assert board.source == f"board{suffix}"


def test_catalogue_name_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seattle").write_bytes(CONTENTS["iomem"])
    assert load("seattle").memory[0].start == 1 << 39
    assert load("./seattle").memory[0].start == load(Path("seattle")).memory[0].start == 1 << 31


def test_every_catalogue_entry_as_a_file() -> None:
    for name in names():
        assert read(format_board(load(name)).encode(), "b.toml") == load(name)


def test_a_device_window_that_overlaps_ram_is_noted() -> None:
    text = (
        "80000000-8fffffff : System RAM\n8ffff000-90000fff : dev@8ffff000\n"
        "a0000000-a0000fff : uart\n"
    )
    board = read(text.encode(), "iomem")
    said = "device window dev@8ffff000 0x8ffff000-0x90000fff overlaps System RAM 0x80000000-"
    assert [note.startswith(said) for note in board.notes] == [True]
    assert read(format_board(board).encode(), "b.toml").notes == board.notes
    apart = text.replace("8ffff000-90000fff", "90000000-90000fff")
    assert read(apart.encode(), "iomem").notes == ()


def test_ram_that_overlaps_is_named_once() -> None:
    text = "80000000-8fffffff : System RAM\n88000000-97ffffff : System RAM\n"
    with pytest.raises(InvalidError, match=r"iomem: System RAM 0x8.* overlaps System RAM 0x88"):
        read(text.encode(), "iomem")


def test_a_name_that_is_nothing() -> None:
    with pytest.raises(InvalidError, match=r"'seatle': .*did you mean seattle\?"):
        load("seatle")
    said = "'zzzz': no such file, and no board of that name; `ttbr boards` lists the catalogue"
    with pytest.raises(InvalidError, match=said):
        load("zzzz")
    with pytest.raises(InvalidError, match="no such file"):
        load("a\0b")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x: not a device tree blob, "),
        (b"hello", "x: not a device tree blob, "),
        (b"\xff\xfe", "x: neither a device tree blob nor text"),
        (b"/dts-v1/;\n/ { };", "x: device tree source, compile it"),
        (CONTENTS["fdt"][:60], "x: offset 0x4: device tree is cut off"),
        (b"\n" * (17 << 20), "x: larger than 16 MiB"),
        (b"# cat /proc/iomem\n" + CONTENTS["iomem"], "x: line 1: '# cat"),
        (b"00000000-00000000 : System RAM", "x: every address is zero"),
    ],
)
def test_refused_content(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read(data, "x")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CONTENTS)), st.binary(max_size=8), st.integers(0, 400))
def test_any_change(form: str, inserted: bytes, at: int) -> None:
    message = ""
    try:
        read(CONTENTS[form][:at] + inserted + CONTENTS[form][at:], "x")
    except TtbrError as error:
        message = str(error)
    assert "\n" not in message


def test_public_names() -> None:
    assert ttbr.boards.__all__ == sorted(ttbr.boards.__all__)
    assert all(hasattr(ttbr.boards, name) for name in ttbr.boards.__all__)

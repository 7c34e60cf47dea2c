"""Segments of memory: reads inside, across and outside them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.errors import InvalidError, MemoryFault, UnreadableError
from ttbr.memory import RawMemory, Segment, SegmentMemory, SparseMemory


def test_reads() -> None:
    memory = SparseMemory({0x1000: b"abcdefgh", 0x2000: b"12345678"})
    assert memory.read(0x1000, 8) == b"abcdefgh"
    assert memory.read(0x1002, 3) == b"cde"
    assert memory.read(0x2007, 1) == b"8"
    assert memory.read(0x1000, 1) == b"a"


@pytest.mark.parametrize(
    ("address", "size", "missing"),
    [
        (0, 8, 0),
        (0xFFF, 2, 0xFFF),
        (0x1008, 1, 0x1008),
        (0x1004, 8, 0x1008),
        (0x3000, 8, 0x3000),
        (1 << 64, 8, 1 << 64),
        (-8, 8, -8),
    ],
)
def test_fault_names_the_first_missing_byte(address: int, size: int, missing: int) -> None:
    memory = SparseMemory({0x1000: b"abcdefgh", 0x2000: b"12345678"})
    memory.read(0x1000, 4)
    with pytest.raises(MemoryFault, match=f"^{missing:#x}: no memory there") as caught:
        memory.read(address, size)
    assert caught.value.address == missing


def test_read_across_adjoining_segments() -> None:
    memory = SparseMemory({0x1000: b"ab", 0x1002: b"cd", 0x1004: b"ef"})
    assert memory.read(0x1001, 4) == b"bcde"


def test_read_across_very_many_segments() -> None:
    """A core may hold 65,535 segments of one byte."""
    memory = SparseMemory({address: bytes([address & 0xFF]) for address in range(0x1000, 0x3000)})
    assert memory.read(0x1000, 0x1000) == bytes(range(256)) * 16


def test_a_long_read_off_the_end_copies_nothing() -> None:
    """A root of absurd size is refused before its bytes are gathered."""

    class Counting(bytes):
        taken = 0

        def __getitem__(self, key: object) -> bytes:  # type: ignore[override]
            assert isinstance(key, slice)
            Counting.taken += key.stop - key.start
            return b""

    memory = SegmentMemory([Segment(0, 1 << 20, Counting(1 << 20))])
    with pytest.raises(MemoryFault):
        memory.read(0, 1 << 39)
    assert Counting.taken == 0


def test_segments_with_an_offset() -> None:
    memory = SegmentMemory([Segment(0x1000, 4, b"..abcd..", 2)])
    assert memory.read(0x1000, 4) == b"abcd"
    with pytest.raises(MemoryFault):
        memory.read(0x1004, 1)


def test_changes_show_in_the_next_read() -> None:
    page = bytearray(8)
    memory = SparseMemory({0: page})
    assert memory.read(0, 2) == b"\0\0"
    page[1] = 7
    assert memory.read(0, 2) == b"\0\7"


def test_overlap_names_both() -> None:
    with pytest.raises(InvalidError, match="overlap: 0x1000-0x1010 and 0x100f-0x1011"):
        SparseMemory({0x100F: bytes(2), 0x1000: bytes(16)})
    with pytest.raises(InvalidError, match="overlap"):
        SegmentMemory([Segment(0, 4, b"abcd"), Segment(0, 4, b"abcd")])


def test_empty_segments_do_not_count() -> None:
    assert SparseMemory({0x1000: b"", 0x0FFF: b"ab"}).read(0xFFF, 2) == b"ab"
    with pytest.raises(MemoryFault):
        SparseMemory({}).read(0, 1)


def test_raw_image(tmp_path: Path) -> None:
    path = tmp_path / "ram.raw"
    path.write_bytes(b"abcdefgh")
    memory = RawMemory(path, 0x8000_0000)
    assert memory.read(0x8000_0002, 2) == b"cd"
    with pytest.raises(MemoryFault):
        memory.read(0, 1)


def test_raw_image_is_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte opens."""
    path = tmp_path / "ram.raw"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"here")
    assert RawMemory(path).read(1 << 39, 4) == b"here"


def test_raw_image_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, why in (("none", "No such file"), ("empty", "is empty"), (".", "directory")):
        with pytest.raises(UnreadableError, match=why):
            RawMemory(tmp_path / name)


@given(
    st.lists(st.tuples(st.integers(0, 64), st.binary(max_size=12)), max_size=8),
    st.integers(0, 90),
    st.integers(1, 40),
)
def test_reads_equal_a_flat_array(parts: list[tuple[int, bytes]], address: int, size: int) -> None:
    flat: dict[int, int] = {}
    pages = {}
    for at, data in parts:
        if data and not flat.keys() & range(at, at + len(data)):
            pages[at] = data
            flat |= {at + i: byte for i, byte in enumerate(data)}
    memory = SparseMemory(pages)
    wanted = [flat.get(address + i) for i in range(size)]
    if None in wanted:
        with pytest.raises(MemoryFault) as caught:
            memory.read(address, size)
        assert caught.value.address == address + wanted.index(None)
    else:
        assert memory.read(address, size) == bytes(flat[address + i] for i in range(size))

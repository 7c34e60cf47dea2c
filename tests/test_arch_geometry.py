"""Granules, levels and start levels against the published numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.arch.geometry import (
    GRANULES,
    Granule,
    granule,
    level_count,
    root_bytes,
    size_text,
    start_level,
)
from ttbr.errors import InvalidError

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40

# The configurations of arm64 Linux and some more: granule, VA bits, levels, start level, lowest VA
# bit of the root's index (PGDIR_SHIFT), root entries, root bytes.
MATRIX = [
    ("4K", 36, 3, 1, 30, 64, 512),
    ("4K", 39, 3, 1, 30, 512, 4096),
    ("4K", 42, 4, 0, 39, 8, 64),
    ("4K", 47, 4, 0, 39, 256, 2048),
    ("4K", 48, 4, 0, 39, 512, 4096),
    ("4K", 52, 5, -1, 48, 16, 128),
    ("16K", 36, 2, 2, 25, 2048, 16384),
    ("16K", 39, 3, 1, 36, 8, 64),
    ("16K", 42, 3, 1, 36, 64, 512),
    ("16K", 47, 3, 1, 36, 2048, 16384),
    ("16K", 48, 4, 0, 47, 2, 16),
    ("16K", 52, 4, 0, 47, 32, 256),
    ("64K", 36, 2, 2, 29, 128, 1024),
    ("64K", 39, 2, 2, 29, 1024, 8192),
    ("64K", 42, 2, 2, 29, 8192, 65536),
    ("64K", 47, 3, 1, 42, 32, 256),
    ("64K", 48, 3, 1, 42, 64, 512),
    ("64K", 52, 3, 1, 42, 1024, 8192),
]


@pytest.mark.parametrize(("name", "va_bits", "levels", "start", "shift", "entries", "size"), MATRIX)
def test_matrix(
    name: str, va_bits: int, levels: int, start: int, shift: int, entries: int, size: int
) -> None:
    g = GRANULES[name]
    assert level_count(g, va_bits) == levels
    assert start_level(g, va_bits) == start
    assert g.level_shift(start) == shift
    assert root_bytes(g, va_bits, start) == size == entries * 8


# First and last T0SZ of each start level at stage 1, D8.2.5.
STARTS = [
    ("4K", -1, 12, 15), ("4K", 0, 16, 24), ("4K", 1, 25, 33), ("4K", 2, 34, 42), ("4K", 3, 43, 48),
    ("16K", 0, 12, 16), ("16K", 1, 17, 27), ("16K", 2, 28, 38), ("16K", 3, 39, 48),
    ("64K", 1, 12, 21), ("64K", 2, 22, 34), ("64K", 3, 35, 47),
]  # fmt: skip


@pytest.mark.parametrize(("name", "level", "first", "last"), STARTS)
def test_start_level_of_each_tsz(name: str, level: int, first: int, last: int) -> None:
    assert {start_level(GRANULES[name], 64 - t) for t in range(first, last + 1)} == {level}


def test_every_legal_tsz_has_a_start_level() -> None:
    for name, most in (("4K", 48), ("16K", 48), ("64K", 47)):
        told = [t for n, _, first, last in STARTS if n == name for t in range(first, last + 1)]
        assert told == list(range(12, most + 1))


ENTRY_SIZES = {
    "4K": {-1: 256 * T, 0: 512 * G, 1: G, 2: 2 * M, 3: 4 * K},
    "16K": {0: 128 * T, 1: 64 * G, 2: 32 * M, 3: 16 * K},
    "64K": {1: 4 * T, 2: 512 * M, 3: 64 * K},
}


@pytest.mark.parametrize("name", GRANULES)
def test_entry_sizes_and_entries(name: str) -> None:
    g = GRANULES[name]
    assert {level: g.entry_size(level) for level in ENTRY_SIZES[name]} == ENTRY_SIZES[name]
    assert g.size == ENTRY_SIZES[name][3] == g.entries * 8
    assert g.entries == {"4K": 512, "16K": 2048, "64K": 8192}[name]
    assert 1 << g.stride == g.entries


# Levels with a block, without and with 52-bit output; contiguous entries by level (ContiguousSize).
BLOCKS = {"4K": ({1, 2}, {0, 1, 2}), "16K": ({2}, {1, 2}), "64K": ({2}, {1, 2})}
CONTIGUOUS = {"4K": {1: 16, 2: 16, 3: 16}, "16K": {2: 32, 3: 128}, "64K": {2: 32, 3: 32}}
CONTIGUOUS_BYTES = {
    "4K": {1: 16 * G, 2: 32 * M, 3: 64 * K},
    "16K": {2: G, 3: 2 * M},
    "64K": {2: 16 * G, 3: 2 * M},
}


@pytest.mark.parametrize("name", GRANULES)
def test_block_levels_and_contiguous_runs(name: str) -> None:
    g = GRANULES[name]
    for wide in (False, True):
        levels = {level for level in range(-1, 3) if g.may_be_block(level, wide)}
        assert levels == BLOCKS[name][wide]
    assert g.contiguous == CONTIGUOUS[name]
    sizes = {level: count * g.entry_size(level) for level, count in g.contiguous.items()}
    assert sizes == CONTIGUOUS_BYTES[name]


def test_granule_encodings() -> None:
    assert {n: (g.tg0, g.tg1) for n, g in GRANULES.items()} == {
        "4K": (0b00, 0b10),
        "16K": (0b10, 0b01),
        "64K": (0b01, 0b11),
    }


def test_indices_of_a_known_address() -> None:
    """4K: VA[47:39], [38:30], [29:21], [20:12]."""
    va = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0xABC
    g = GRANULES["4K"]
    assert [g.index(level, va) for level in range(-1, 4)] == [0, 1, 2, 3, 4]
    assert GRANULES["64K"].index(2, 0x1FFF << 29) == 0x1FFF
    assert GRANULES["16K"].index(0, 0x1F << 47) == 0x1F


@given(st.sampled_from(list(GRANULES.values())), st.integers(1, 3), st.integers(0, (1 << 52) - 1))
def test_indices_and_offset_make_the_address(g: Granule, start: int, address: int) -> None:
    width = g.level_shift(start) + g.stride
    address &= (1 << width) - 1
    levels = range(start, 4)
    parts = sum(g.index(level, address) * g.entry_size(level) for level in levels)
    assert parts + address % g.size == address


@pytest.mark.parametrize(
    ("text", "name"), [("4K", "4K"), ("16k", "16K"), ("64KB", "64K"), ("4kb", "4K")]
)
def test_granule_by_name(text: str, name: str) -> None:
    assert granule(text).name == name


@pytest.mark.parametrize("text", ["", "8K", "4", "4096", "4KBB", "2M"])
def test_unknown_granule(text: str) -> None:
    with pytest.raises(InvalidError, match=f"granule {text!r}: must be 4K, 16K or 64K"):
        granule(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (1, "1B"), (1023, "1023B"), (4 * K, "4K"), (1536 * M, "1536M"), (2 * G, "2G"),
        (512 * T, "512T"), (1 << 60, "1E"), (4097, "4097B"), (1 << 52, "4P"),
    ],
)  # fmt: skip
def test_size_text(size: int, text: str) -> None:
    assert size_text(size) == text

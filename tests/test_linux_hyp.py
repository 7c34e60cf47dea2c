"""HYP addresses by era, against published logs and the vectors computed from the sources."""

from typing import Any

import pytest

from ttbr.errors import UnsupportedError
from ttbr.linux.config import KernelConfig, configure
from ttbr.linux.hyp import (
    INTERSECTION,
    Meeting,
    hyp_layout,
    hyp_va_bits,
    intersects,
    linear_lsb,
    overlap,
    random_tag_bits,
    runs_merged,
    trampoline_va,
)
from ttbr.linux.layout import linear_map

GIB = 1 << 30
Memory = list[tuple[int, int]]

# name: memory, image, image end, idmap page
BOARDS: dict[str, tuple[Memory, int, int, int]] = {
    "seattle": ([(0x8000000000, 16 * GIB)], 0x8000080000, 0x8001080000, 0x8000A26000),
    "xgene": ([(0x4000000000, 16 * GIB)], 0x4000080000, 0x4001080000, 0x4000A26000),
    "lx2160a": (
        [(0x80000000, 0x7BE00000), (0x2080000000, 12 * GIB)],
        0x81080000,
        0x82080000,
        0x81A26000,
    ),
    "sbsa-ref": ([(0x10000000000, 4 * GIB)], 0x10000080000, 0x10001080000, 0x10000A26000),
    "d06": ([(0x40000000, 0x202800000000 - 0x40000000)], 0x41080000, 0x42080000, 0x41A26000),
    "altra": (
        [(0x80000000, 2 * GIB), (0x80000000000, 2 * GIB), (0x80100000000, 28 * GIB)],
        0x807F6DF0000,
        0x807F7400000,
        0x807F6E00000,
    ),
}


def at(board: str, release: str, va_bits: int = 39) -> tuple[KernelConfig, Memory]:
    memory, image, end, page = BOARDS[board]
    return configure(release, "4K", va_bits, image, image_end=end, idmap_text=page), memory


@pytest.mark.parametrize(
    ("board", "t0sz", "slot"),
    [
        ("seattle", 24, 1),
        ("xgene", 25, 0),
        ("lx2160a", 25, 0),
        ("sbsa-ref", 23, 2),
        ("d06", 25, 0),
        ("altra", 20, 16),
    ],
)
def test_t0sz_and_slot(board: str, t0sz: int, slot: int) -> None:
    config, memory = at(board, "4.4")
    assert hyp_layout(config, memory).t0sz == t0sz
    assert overlap(config, memory).slot == slot
    assert runs_merged(config) is (slot > 0)


@pytest.mark.parametrize("release", ["4.1", "4.4", "4.7"])
@pytest.mark.parametrize(
    ("board", "meeting"),
    [
        ("seattle", Meeting.SLOT),
        ("xgene", Meeting.SEPARATE),
        ("lx2160a", Meeting.APART),
        ("sbsa-ref", Meeting.SLOT),
        ("d06", Meeting.APART),
        ("altra", Meeting.SLOT),
    ],
)
def test_up_to_4_7(release: str, board: str, meeting: Meeting) -> None:
    found = overlap(*at(board, release))
    assert (found.first, found.last) == (1 << 38, (1 << 39) - 1)
    assert found.meeting is meeting
    assert found.works


@pytest.mark.parametrize("release", ["4.8", "4.16"])
@pytest.mark.parametrize(
    ("board", "low"),
    [
        ("seattle", True),
        ("xgene", True),
        ("lx2160a", False),
        ("sbsa-ref", True),
        ("d06", False),
        ("altra", True),
    ],
)
def test_4_8_to_4_16(release: str, board: str, low: bool) -> None:
    found = overlap(*at(board, release))
    half = (0, (1 << 38) - 1) if low else (1 << 38, (1 << 39) - 1)
    assert (found.first, found.last) == half
    assert found.works


# board, lsb, the range of 4.17 to 5.3, that of 5.4 and 5.5 (None: the same), that of 5.6
TAGGED = [
    ("seattle", 34, (0x4000000000, 0x43FFFFFFFF), None, None),
    ("xgene", 34, (0x0, 0x3FFFFFFFF), None, None),
    ("lx2160a", 38, (0x4000000000, 0x62FFFFFFFF), (0x0, 0x22FFFFFFFF), None),
    ("sbsa-ref", 32, (0x4000000000, 0x40FFFFFFFF), None, None),
    ("d06", 38, (0x4000000000, 0x7FFFFFFFFF), (0x0, 0x3FFFFFFFFF), None),
    ("altra", 35, (0x4000000000, 0x47F73FFFFF), None, None),
]


@pytest.mark.parametrize(("board", "lsb", "before", "flipped", "fixed"), TAGGED)
def test_since_4_17(
    board: str,
    lsb: int,
    before: tuple[int, int],
    flipped: tuple[int, int] | None,
    fixed: tuple[int, int] | None,
) -> None:
    for release in ("4.17", "5.3"):
        config, memory = at(board, release)
        found = overlap(config, memory)
        assert (found.first, found.last) == before
        assert found.works
        assert linear_lsb(linear_map(config, memory)) == lsb
    for release in ("5.4", "5.5"):
        found = overlap(*at(board, release))
        assert (found.first, found.last) == (flipped or before)
        assert (found.meeting is Meeting.INTERSECTS) is (flipped is not None)
    for release in ("5.6", "5.9", "5.10", "6.1", "6.12"):
        found = overlap(*at(board, release))
        assert (found.first, found.last) == (fixed or before)
        assert found.works


def test_the_message_is_the_kernels() -> None:
    assert intersects(hyp_layout(*at("lx2160a", "5.4")))
    assert not intersects(hyp_layout(*at("lx2160a", "5.6")))
    assert INTERSECTION == "IDMAP intersecting with HYP VA, unable to continue"


@pytest.mark.parametrize(
    ("release", "first", "last", "bad"),
    [
        ("5.3", 0x800000000000, 0xC0003FFFFFFF, False),
        ("5.4", 0x0, 0x40003FFFFFFF, True),
        ("5.5", 0x0, 0x40003FFFFFFF, True),
        ("5.6", 0x800000000000, 0xC0003FFFFFFF, False),
    ],
)
def test_two_sockets_of_altra_with_48_bits(release: str, first: int, last: int, bad: bool) -> None:
    memory = [
        (0x80000000, GIB),
        (0x80000000000, 2 * GIB),
        (0x800C0000000, 0x84000000000 - 0x800C0000000),
        (0x400000000000, 3 * GIB),
    ]
    config = configure(release, "4K", 48, 0x81080000, idmap_text=0x81A26000)
    found = overlap(config, memory)
    assert (found.first, found.last) == (first, last)
    assert (found.meeting is Meeting.INTERSECTS) is bad
    assert linear_lsb(linear_map(config, memory)) == 47


def test_d06_with_48_bits_has_one_random_bit() -> None:
    config, memory = at("d06", "5.6", 48)
    lsb = linear_lsb(linear_map(config, memory))
    assert lsb == 46
    assert random_tag_bits(config, 48, lsb) == 1 << 46


def test_random_bits_stay_below_the_half() -> None:
    config, memory = at("seattle", "5.6")
    hyp = hyp_layout(config, memory, rand=(1 << 64) - 1)
    assert hyp.first == 0x7C00000000
    assert hyp.tag.bit_length() <= 24
    nokaslr, _ = at("seattle", "5.9")
    assert hyp_layout(nokaslr, memory, rand=(1 << 64) - 1).first == 0x4000000000


@pytest.mark.parametrize(
    ("release", "bits"), [("5.10", 40), ("6.2", 40), ("6.3", 40), ("6.9", 48), ("6.12", 48)]
)
def test_hyp_va_bits_of_seattle(release: str, bits: int) -> None:
    assert hyp_va_bits(at("seattle", release)[0]) == bits


@pytest.mark.parametrize(
    ("release", "va52", "bits"),
    [
        ("5.4", False, 52),
        ("6.2", True, 48),
        ("6.3", True, 52),
        ("6.12", True, 52),
        ("6.12", False, 48),
    ],
)
def test_hyp_va_bits_with_52_bits(release: str, va52: bool, bits: int) -> None:
    assert hyp_va_bits(configure(release, "64K", 52, 0x80000000, va52=va52)) == bits


def test_7_0_lays_out_in_hyp_va_bits() -> None:
    before, after = (hyp_layout(*at("seattle", release)) for release in ("6.19", "7.0"))
    assert (before.va_bits, after.va_bits) == (39, 48)
    assert after.first == 1 << 47


def test_trampoline_is_the_last_page() -> None:
    assert trampoline_va(at("xgene", "4.4")[0]) == 0x7FFFFFF000


def test_vhe_leaves_addresses_alone() -> None:
    config = configure("5.4", "4K", 48, 0x81080000, vhe=True)
    memory = [(0x80000000, 1 << 46)]
    hyp = hyp_layout(config, memory)
    assert hyp.hyp_va(0xFFFF000012345678) == 0xFFFF000012345678
    assert overlap(config, memory).meeting is Meeting.APART


def test_an_extended_root_needs_the_hyp_page_above() -> None:
    memory = [(0x7F00000000, 16 * GIB)]
    arguments: dict[str, Any] = {"image": 0x7FFFC00000, "image_end": 0x8000400000}
    low, high = 0x7FFFD00000, 0x8000100000
    slot_zero = configure("4.2", "4K", 39, **arguments, idmap_text=high, hyp_text=low)
    beyond = configure("4.2", "4K", 39, **arguments, idmap_text=low, hyp_text=high)
    assert overlap(slot_zero, memory).meeting is Meeting.SLOT_ZERO
    assert overlap(beyond, memory).meeting is Meeting.BEYOND
    assert overlap(slot_zero, memory).straddles
    assert not overlap(slot_zero, memory).works
    image_decides = configure("6.1", "4K", 39, **arguments, idmap_text=low, hyp_text=low)
    assert overlap(image_decides, memory).works


def test_ram_inside_the_hyp_range() -> None:
    found = overlap(*at("xgene", "4.4"))
    assert found.ram == ((0x4000000000, 0x4400000000),)
    assert overlap(*at("seattle", "4.4")).ram == ()


def test_no_kvm_with_16k_pages_before_4_7() -> None:
    with pytest.raises(UnsupportedError, match=r"since Linux 4\.7, not in 4\.6"):
        hyp_layout(configure("4.6", "16K", 47, 0x80000000), [(0x80000000, GIB)])
    with pytest.raises(UnsupportedError, match=r"KVM: since Linux 3\.11, not in 3\.10"):
        hyp_layout(configure("3.10", "4K", 39, 0x80080000), [(0x80000000, GIB)])

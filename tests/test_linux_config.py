"""What a kernel configuration may be, and the sentences that refuse the rest."""

from typing import Any

import pytest

from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import check_placement, configure, default_image


@pytest.mark.parametrize(
    ("release", "page", "va_bits", "why"),
    [
        ("6.1", "4K", 42, "VA_BITS 42: 4K pages allow 39, 48, 52"),
        ("6.1", "16K", 39, "VA_BITS 39: 16K pages allow 36, 47, 48, 52"),
        ("6.1", "64K", 39, "VA_BITS 39: 64K pages allow 42, 48, 52"),
        ("3.16", "4K", 48, r"since Linux 3\.17, not in 3\.16"),
        ("4.3", "16K", 47, r"since Linux 4\.4, not in 4\.3"),
        ("5.3", "64K", 52, r"since Linux 5\.4, not in 5\.3"),
        ("6.8", "4K", 52, r"since Linux 6\.9, not in 6\.8"),
        ("6.1", "8K", 39, "must be 4K, 16K or 64K"),
    ],
)
def test_va_bits_must_be_selectable(release: str, page: str, va_bits: int, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        configure(release, page, va_bits, 0x80000000)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"image": 0x80000800}, "not aligned to a 4K page"),
        ({"image": (1 << 48) - 0x1000}, "beyond the 48-bit physical addresses"),
        ({"image": 0x80000000, "image_end": 0x80000000}, "not above start"),
        ({"image": 0x80000000, "idmap_text": 0x90000000}, "idmap text 0x90000000 is outside"),
        ({"image": 0x80000000, "pa_bits": 44}, "PA_BITS 44: must be 48 or 52"),
    ],
)
def test_the_image_must_be_placed_well(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        configure("6.1", "4K", 39, **arguments)


def test_52_bit_physical_addresses() -> None:
    assert configure("4.16", "64K", 48, 1 << 50, pa_bits=52).pa_bits == 52
    with pytest.raises(UnsupportedError, match=r"since Linux 4\.16, not in 4\.15"):
        configure("4.15", "64K", 48, 0x80000000, pa_bits=52)
    with pytest.raises(InvalidError, match="needs VA_BITS 52"):
        configure("6.12", "4K", 48, 0x80000000, pa_bits=52)


@pytest.mark.parametrize(
    ("page", "va52", "actual"),
    [
        ("4K", False, 48),
        ("16K", False, 47),
        ("64K", False, 48),
        ("4K", True, 52),
        ("16K", True, 52),
    ],
)
def test_52_bit_kernels_fall_back(page: str, va52: bool, actual: int) -> None:
    config = configure("6.12", page, 52, 0x80000000, va52=va52)
    assert config.va_bits_actual == actual
    assert config.va_bits_min == (47 if page == "16K" else 48)


def test_vhe_came_in_4_6() -> None:
    assert configure("4.6", "4K", 48, 0x80080000, vhe=True).vhe
    with pytest.raises(UnsupportedError, match=r"VHE: since Linux 4\.6, not in 4\.5"):
        configure("4.5", "4K", 48, 0x80080000, vhe=True)


def test_the_idmap_pages_are_inside_the_image() -> None:
    image = configure("6.1", "64K", 42, 0x80000000).image
    assert image.text == image.hyp == 0x807F0000
    small = configure("6.1", "4K", 39, 0x80000000, image_end=0x80001000).image
    assert small.text == 0x80000000


def test_the_default_image_is_in_the_first_window_with_room() -> None:
    memory = [(0x90000000, 1 << 30), (0x80000000, 1 << 20)]
    assert default_image(memory, "5.8", "4K") == 0x90000000
    assert default_image(memory, "5.7", "64K") == 0x90080000
    assert default_image([(0x80100000, 1 << 30)], "6.1", "4K") == 0x80200000
    with pytest.raises(InvalidError, match="no RAM"):
        default_image([], "6.1", "4K")
    with pytest.raises(InvalidError, match="no window of RAM has room"):
        default_image(memory[1:], "6.1", "4K")


def test_early_images_must_be_text_offset_above_a_boundary() -> None:
    check_placement(configure("4.5", "4K", 39, 0x8000080000))
    check_placement(configure("4.6", "4K", 39, 0x8000090000))
    with pytest.raises(UnsupportedError, match="must start 0x80000 above a boundary of 0x200000"):
        check_placement(configure("4.5", "4K", 39, 0x8000090000))


def test_text_offset_went_away() -> None:
    assert configure("5.7", "4K", 39, 0x80080000).text_offset == 0x80000
    assert configure("5.8", "4K", 39, 0x80000000).text_offset == 0

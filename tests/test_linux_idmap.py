"""T0SZ of the ID map, its extension, slot and size, and the refusals."""

from typing import Any

import pytest

from ttbr.errors import InvalidError, UnsupportedError
from ttbr.linux.config import configure
from ttbr.linux.idmap import Extension, id_map, idmap_t0sz, written

SEATTLE, XGENE, LX2160A = 0x8000A00000, 0x4000A00000, 0x81A00000
SBSA, M1_MAX, ALTRA, D06_2, ALTRA_2 = (
    0x10000A00000,
    0x10000A00000,
    0x807F6E00000,
    0x202000A00000,
    0x400000A00000,
)


@pytest.mark.parametrize("release", ["4.1", "4.4", "5.4", "5.15", "6.1"])
@pytest.mark.parametrize(
    ("image", "t0sz", "slot"),
    [(SEATTLE, 24, 1), (SBSA, 23, 2), (ALTRA, 20, 16), (XGENE, 25, 0), (LX2160A, 25, 0)],
)
def test_boards_with_4k_39(release: str, image: int, t0sz: int, slot: int) -> None:
    found = id_map(configure(release, "4K", 39, image, image_end=image + 0x600000))
    assert (found.t0sz, found.extension is Extension.EXTRA_LEVEL) == (t0sz, slot > 0)
    # Without an extra level the slot is the index in the root.
    assert found.slot == slot or (slot == 0 and found.slot == image >> 30)
    assert found.shape.root_level == (0 if slot else 1)


@pytest.mark.parametrize(
    ("page", "bits", "image", "extended"),
    [
        ("4K", 39, SEATTLE, True),
        ("4K", 39, SBSA, True),
        ("4K", 39, M1_MAX, True),
        ("4K", 39, ALTRA, True),
        ("4K", 39, D06_2, True),
        ("64K", 42, ALTRA, True),
        ("64K", 42, ALTRA_2, True),
        ("64K", 42, SEATTLE, False),
        ("16K", 47, ALTRA_2, False),
        ("16K", 36, SEATTLE, True),
        ("16K", 36, XGENE, True),
        ("16K", 36, M1_MAX, True),
        ("4K", 48, ALTRA_2, False),
    ],
)
def test_which_configurations_extend(page: str, bits: int, image: int, extended: bool) -> None:
    found = id_map(configure("5.10", page, bits, image & -0x200000))
    kind = Extension.EXTRA_LEVEL if extended else Extension.NONE
    assert found.extension is kind


def test_seattle_has_two_live_root_entries() -> None:
    found = id_map(configure("4.1", "4K", 39, 0x8000080000))
    assert found.shape.root_entries == 2
    assert found.shape.index_bits[0] == (0, 39, 39)


@pytest.mark.parametrize(
    ("release", "end", "t0sz"),
    [("4.1", 0x8000000000, 24), ("4.1", 0x7FFFFFF000, 25), ("6.1", 0x8000000000, 24)],
)
def test_the_end_symbol_is_exclusive(release: str, end: int, t0sz: int) -> None:
    config = configure(release, "4K", 39, end - 0x600000, image_end=end)
    assert idmap_t0sz(config) == t0sz


def test_a_straddling_image_is_mapped_in_part_or_whole() -> None:
    start, end = 0x7FFFC00000, 0x8000400000
    found = id_map(configure("4.1", "4K", 39, start, image_end=end))
    assert "straddles 0x8000000000" in found.why_not
    assert found.why_not.endswith(
        "needs Linux 4.2 (an ID map of one page) or an image below 0x8000000000"
    )
    # From 4.2 on only one page is mapped; its own address decides.
    low = configure("4.2", "4K", 39, start, image_end=end, idmap_text=start)
    high = configure("4.2", "4K", 39, start, image_end=end, idmap_text=0x8000001000)
    assert (id_map(low).t0sz, id_map(high).t0sz) == (25, 24)
    late = id_map(configure("6.1", "4K", 39, start, image_end=end))
    assert (late.t0sz, late.why_not) == (24, "")


def test_a_gigabyte_boundary_was_not_to_be_crossed() -> None:
    """With one entry a level the last index is below the first: one leaf is written."""
    image: dict[str, Any] = {"image": 0xBFC00000, "image_end": 0xC0400000}
    config = configure("4.1", "4K", 39, **image, idmap_text=0xBFE00000)
    assert "straddles 0xc0000000" in id_map(config).why_not
    assert written(config, id_map(config).boot) == (0xBFC00000, (0xBFC00000, 0xBFE00000))
    assert not id_map(configure("4.1", "4K", 39, **image, idmap_text=0xBFDFF000)).why_not


@pytest.mark.parametrize("release", ["4.4", "5.4", "5.19", "6.1", "6.8"])
def test_two_levels_are_not_made(release: str) -> None:
    config = configure(release, "16K", 36, 1 << 47)
    why = id_map(config).why_not
    assert "two more levels for 48 bits" in why
    assert why.endswith(
        "needs Linux 6.9 (always 48 bits), VA_BITS 47 or an image below 0x800000000000"
    )
    assert written(config, id_map(config).boot) is None
    one = id_map(configure(release, "16K", 36, (1 << 47) - (1 << 30)))
    assert (one.extension, one.t0sz, one.why_not) == (Extension.EXTRA_LEVEL, 17, "")


def test_two_levels_with_a_48_bit_id_map() -> None:
    found = id_map(configure("6.9", "16K", 36, 1 << 47))
    assert (found.t0sz, found.extension) == (16, Extension.TWO_LEVELS)


@pytest.mark.parametrize(("release", "page", "bits"), [("6.1", "4K", 39), ("6.12", "4K", 48)])
def test_4k_pages_end_at_48_bits(release: str, page: str, bits: int) -> None:
    with pytest.raises(InvalidError, match="beyond the 48-bit physical addresses"):
        id_map(configure(release, page, bits, 1 << 48))


def test_an_image_above_48_bits() -> None:
    wider = id_map(configure("5.4", "64K", 48, 1 << 48, pa_bits=52))
    assert (wider.extension, wider.t0sz) == (Extension.WIDER_ROOT, 15)
    level = id_map(configure("5.4", "64K", 42, 1 << 51, pa_bits=52))
    assert (level.extension, level.t0sz, level.slot) == (Extension.EXTRA_LEVEL, 12, 512)
    # Its index of 16 bits is beyond the root's 64 entries, one of 9 bits wraps to the first.
    for page, place in (("4K", (0, (1 << 48, (1 << 48) + 0xFF0000))), ("64K", None)):
        config = configure("6.12", page, 52, 1 << 48, pa_bits=52, va52=True)
        assert id_map(config).why_not.endswith("needs an image below 0x1000000000000")
        assert written(config, (config.image.start, config.image.end)) == place
    across = configure("6.12", "64K", 52, (1 << 48) - (1 << 20), pa_bits=52, va52=True)
    with pytest.raises(UnsupportedError, match="on both sides of the end of its 48 bits"):
        id_map(across)


@pytest.mark.parametrize(
    ("release", "needs"), [("3.9", "Linux 4.1 (extra level) or"), ("4.0", "VA_BITS 48 or")]
)
def test_before_the_extension(release: str, needs: str) -> None:
    assert id_map(configure(release, "4K", 39, 0x80080000)).t0sz == 25
    config = configure(release, "4K", 39, 0x8000080000)
    found = id_map(config)
    assert (found.t0sz, found.slot) == (25, 0)
    assert "0x8000870000 is beyond the 39 bits" in found.why_not
    assert found.why_not.endswith(f"{needs} an image below 0x8000000000")
    assert written(config, found.boot) == (0, (0x8000000000, 0x8001200000))


@pytest.mark.parametrize(
    ("release", "t0sz"), [("5.4", 12), ("5.11", 12), ("5.12", 16), ("6.1", 16), ("6.12", 16)]
)
def test_52_bit_kernels_use_a_48_bit_id_map_since_5_12(release: str, t0sz: int) -> None:
    assert idmap_t0sz(configure(release, "64K", 52, 0x80000000, va52=True)) == t0sz


@pytest.mark.parametrize(
    ("release", "page", "bits", "pages"),
    [
        ("3.18", "4K", 39, 2),
        ("4.1", "4K", 39, 3),
        ("4.1", "64K", 42, 3),
        ("4.4", "4K", 39, 3),
        ("4.4", "16K", 36, 4),
        ("4.4", "64K", 42, 3),
    ],
)
def test_reserved_pages(release: str, page: str, bits: int, pages: int) -> None:
    found = id_map(configure(release, page, bits, 0x80000000))
    assert found.area == pages * found.shape.granule.size


def test_what_is_mapped() -> None:
    image: dict[str, Any] = {"image": 0x80080000, "image_end": 0x80900000, "idmap_text": 0x80701000}
    whole = id_map(configure("4.1", "4K", 39, **image))
    assert whole.boot == whole.permanent == (0x80000000, 0x80A00000)
    text = id_map(configure("4.4", "4K", 39, **image))
    assert text.boot == text.permanent == (0x80600000, 0x80800000)
    late = id_map(configure("6.1", "4K", 39, **image))
    assert (late.boot, late.permanent) == ((0x80000000, 0x80A00000), (0x80701000, 0x80702000))

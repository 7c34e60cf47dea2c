"""Descriptor fields against descriptors of real kernels, and the three output address formats."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.arch.bits import ones
from ttbr.arch.descriptors import (
    BLOCK,
    FORMATS,
    INVALID,
    OA_48,
    OA_64K_LPA,
    OA_LPA2,
    PAGE,
    RESERVED,
    TABLE,
    OutputFormat,
    decode,
    descriptor_type,
    output_address,
)
from ttbr.arch.geometry import GRANULES, Granule
from ttbr.errors import InvalidError

# Stage 1 and 2, the bits that arch/arm64/include/asm/pgtable-hwdef.h and kvm_pgtable.h name.
STAGE1_LEAF = {
    "AMEC": 63, "PBHA": 59, "SW": 55, "UXN": 54, "PXN": 53, "CONT": 52, "DBM": 51, "GP": 50,
    "nG": 11, "AF": 10, "SH": 8, "AP": 6, "NS": 5, "AttrIndx": 2, "TYPE": 1, "VALID": 0,
}  # fmt: skip
STAGE2_LEAF = {
    "AMEC": 63, "PBHA": 59, "SW": 55, "XN": 53, "CONT": 52, "DBM": 51, "FnXS": 11, "AF": 10,
    "SH": 8, "S2AP": 6, "MemAttr": 2, "TYPE": 1, "VALID": 0,
}  # fmt: skip
STAGE1_TABLE = {"NSTable": 63, "APTable": 61, "UXNTable": 60, "PXNTable": 59}
WIDTHS = {"PBHA": 4, "SW": 4, "SH": 2, "AP": 2, "AttrIndx": 3, "APTable": 2, "XN": 2, "S2AP": 2}
WIDTHS |= {"MemAttr": 4, "IGNORED": 8}


def lows(stage: int, kind: str) -> dict[str, int]:
    return {field.name: field.low for field in FORMATS[stage, kind]}


def test_field_positions() -> None:
    assert lows(1, PAGE) == STAGE1_LEAF
    assert lows(1, BLOCK) == STAGE1_LEAF | {"nT": 16}
    assert lows(2, PAGE) == STAGE2_LEAF
    assert lows(2, BLOCK) == STAGE2_LEAF | {"nT": 16}
    assert STAGE1_TABLE.items() <= lows(1, TABLE).items()
    assert not STAGE1_TABLE.keys() & lows(2, TABLE).keys()


@pytest.mark.parametrize("key", FORMATS, ids=str)
def test_rows_stand_from_the_top_without_overlap(key: tuple[int, str]) -> None:
    fields = FORMATS[key]
    assert [f.high for f in fields] == sorted((f.high for f in fields), reverse=True)
    assert all(a.low > b.high for a, b in itertools.pairwise(fields))
    assert {f.name: f.width for f in fields if f.width > 1} == {
        f.name: WIDTHS[f.name] for f in fields if f.name in WIDTHS
    }


def names(descriptor: int, level: int, granule: str = "4K", stage: int = 1) -> dict[str, object]:
    kind, address, fields = decode(descriptor, level, GRANULES[granule], OA_48, stage)
    found: dict[str, object] = {field.name: value for field, value in fields if value}
    return found | {"kind": kind, "address": address}


@pytest.mark.parametrize(
    ("descriptor", "level", "stage", "wanted"),
    [
        (  # PAGE_KERNEL of Linux 5.4: RW, UXN, PXN, MT_NORMAL=4
            0x0068_0000_4123_4713, 3, 1,
            {"kind": PAGE, "address": 0x4123_4000, "UXN": 1, "PXN": 1, "DBM": 1, "AF": 1, "SH": 3,
             "AttrIndx": 4, "TYPE": 1, "VALID": 1},
        ),
        (  # user text: read-only, executable at EL0, not global, PXN
            0x0020_0000_43C4_FFC3, 3, 1,
            {"kind": PAGE, "address": 0x43C4_F000, "PXN": 1, "nG": 1, "AF": 1, "SH": 3, "AP": 3,
             "TYPE": 1, "VALID": 1},
        ),
        (  # ID map of Linux 4.x: SWAPPER_MM_MMUFLAGS, 2M block
            0x4020_0711, 2, 1,
            {"kind": BLOCK, "address": 0x4020_0000, "AF": 1, "SH": 3, "AttrIndx": 4, "VALID": 1},
        ),
        (  # user table of Linux 6.x: PXNTable
            0x0800_0000_4313_5003, 0, 1,
            {"kind": TABLE, "address": 0x4313_5000, "PXNTable": 1, "TYPE": 1, "VALID": 1},
        ),
        (  # KVM guest page: Normal WB, read/write, XN
            0x0040_0000_4321_07FF, 3, 2,
            {"kind": PAGE, "address": 0x4321_0000, "XN": 2, "AF": 1, "SH": 3, "S2AP": 3,
             "MemAttr": 15, "TYPE": 1, "VALID": 1},
        ),
        (  # KVM device page under FEAT_S2FWB: MemAttr 0b0001
            0x0040_0000_0801_04C7, 3, 2,
            {"kind": PAGE, "address": 0x0801_0000, "XN": 2, "AF": 1, "S2AP": 3, "MemAttr": 1,
             "TYPE": 1, "VALID": 1},
        ),
    ],
)  # fmt: skip
def test_descriptors_of_real_kernels(
    descriptor: int, level: int, stage: int, wanted: dict[str, object]
) -> None:
    assert names(descriptor, level, stage=stage) == wanted


# Type by (granule, level, 52-bit): what 0b01 is; 0b11 is a table, at level 3 a page (D8.3).
BLOCKS = {("4K", 1), ("4K", 2), ("16K", 2), ("64K", 2)}
BLOCKS_52 = BLOCKS | {("4K", 0), ("16K", 1), ("64K", 1)}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", GRANULES)
@pytest.mark.parametrize("level", [-1, 0, 1, 2, 3])
def test_types(name: str, level: int, wide: bool) -> None:
    g = GRANULES[name]
    block = BLOCK if (name, level) in (BLOCKS_52 if wide else BLOCKS) else RESERVED
    wanted = [INVALID, block, INVALID, PAGE if level == 3 else TABLE]
    for upper in (0, ones(62) << 2):
        assert [descriptor_type(upper | t, level, g, wide) for t in range(4)] == wanted


FORMAT_OF = {"4K": (OA_48, OA_LPA2), "16K": (OA_48, OA_LPA2), "64K": (OA_48, OA_64K_LPA)}


@pytest.mark.parametrize(
    ("form", "shift", "descriptor", "address"),
    [
        (OA_48, 12, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_F000),
        (OA_48, 21, 0x0000_1234_5678_9ABC, 0x1234_5660_0000),
        (OA_LPA2, 12, 0x0003_FFFF_FFFF_F003, 0x3_FFFF_FFFF_F000),
        (OA_LPA2, 12, 0x303, 0xC_0000_0000_0000),  # bits 9:8 are OA[51:50]
        (OA_LPA2, 14, 0x0002_0000_0000_4103, 0x6_0000_0000_4000),
        (OA_64K_LPA, 16, 0x0000_0000_0001_F003, 0xF_0000_0001_0000),  # bits 15:12 are OA[51:48]
        (OA_64K_LPA, 29, 0x0000_8000_2001_5001, 0x5_8000_2000_0000),
        (OA_64K_LPA, 42, 0x0000_FC00_0000_3001, 0x3_FC00_0000_0000),
    ],
)
def test_output_address(form: OutputFormat, shift: int, descriptor: int, address: int) -> None:
    assert output_address(descriptor, form, shift) == address


@given(st.sampled_from(list(GRANULES.values())), st.booleans(), st.integers(0, ones(52)))
def test_address_round_trip(g: Granule, wide: bool, address: int) -> None:
    form = FORMAT_OF[g.name][wide]
    address &= ones(form.address_bits) & ~ones(g.shift)
    placed = form.place(address)
    assert output_address(placed, form, g.shift) == address
    assert output_address(placed | 0xFFE0_0000_0000_0403, form, g.shift) == address
    outside = form.low_mask(g.shift) | form.high_mask
    assert placed & ~outside == 0


@pytest.mark.parametrize(
    ("form", "address"),
    [(OA_48, 1 << 48), (OA_LPA2, 1 << 52), (OA_64K_LPA, 1 << 52), (OA_48, -4096)],
)
def test_address_that_does_not_fit(form: OutputFormat, address: int) -> None:
    with pytest.raises(InvalidError, match=f"{address:#x} does not fit"):
        form.place(address)


def test_shareability_gives_way_to_the_address() -> None:
    _, address, fields = decode(0x703, 3, GRANULES["4K"], OA_LPA2)
    assert address == 0xC_0000_0000_0000
    assert "SH" not in {field.name for field, _ in fields}
    _, _, fields = decode(0x703, 3, GRANULES["4K"], OA_48)
    assert "SH" in {field.name for field, _ in fields}


@pytest.mark.parametrize("descriptor", [0, 2, 0xFFFF_FFFF_FFFF_FFFE])
def test_invalid_has_no_address_and_no_fields(descriptor: int) -> None:
    kind, address, fields = decode(descriptor, 2, GRANULES["4K"], OA_48)
    assert (kind, address, [f.name for f, _ in fields]) == (INVALID, None, ["VALID"])


@pytest.mark.parametrize("descriptor", [1 << 64, -1])
def test_too_wide(descriptor: int) -> None:
    with pytest.raises(InvalidError, match="does not fit in 64 bits"):
        decode(descriptor, 2, GRANULES["4K"], OA_48)


@given(
    st.integers(0, ones(64)),
    st.sampled_from([(name, level) for name in GRANULES for level in range(1, 4)]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_any_word_decodes(descriptor: int, where: tuple[str, int], wide: bool, stage: int) -> None:
    g, level = GRANULES[where[0]], where[1]
    kind, address, fields = decode(descriptor, level, g, FORMAT_OF[g.name][wide], stage)
    assert (address is None) == (kind in (INVALID, RESERVED))
    assert all(field.get(descriptor) == value for field, value in fields)
    if address is not None:
        assert address % (g.size if kind == TABLE else g.entry_size(level)) == 0

"""Register layouts: positions against the manual's, values of real systems, reserved encodings."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trees
from captures import moments
from ttbr.arch.bits import Register, ones
from ttbr.arch.registers import REGISTERS, lookup
from ttbr.errors import InvalidError
from ttbr.report.fields import register_warnings

ALL = list(REGISTERS.values())


@pytest.mark.parametrize("register", ALL, ids=lambda r: r.name)
def test_rows_stand_from_the_top_without_overlap(register: Register) -> None:
    fields = register.fields
    assert all(0 <= f.low <= f.high < register.width for f in fields)
    assert all(a.low > b.high for a, b in itertools.pairwise(fields))
    assert len({f.name for f in fields}) == len(fields)
    assert not register.res1 & register.named
    for field in fields:
        assert all(0 <= value <= ones(field.width) for value in field.values or {})


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("TCR_EL1", trees.TCR_EL1),
        ("TCR_EL2_E2H", trees.TCR_EL1),
        ("TCR_EL2", trees.TCR_EL2),
        ("VTCR_EL2", trees.VTCR_EL2),
    ],
)
def test_positions(name: str, positions: dict[str, int]) -> None:
    assert {field.name: field.low for field in REGISTERS[name].fields} == positions


def test_positions_of_hcr() -> None:
    found = {field.name: field.low for field in REGISTERS["HCR_EL2"].fields}
    assert trees.HCR_EL2.items() <= found.items()
    assert {"TVM": 26, "FMO": 3, "IMO": 4, "AMO": 5, "TSC": 19}.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "position"),
    # TCR_EL3 has what EL1 and EL2 have in TCR2_ELx.
    [("PnCH", 34), ("PIE", 35), ("POE", 36), ("AIE", 37), ("D128", 38)],
)
def test_tcr_el3_has_its_own_upper_bits(name: str, position: int) -> None:
    assert REGISTERS["TCR_EL3"][name].low == position


@pytest.mark.parametrize(
    ("name", "position"),
    [("M", 0), ("A", 1), ("C", 2), ("SA", 3), ("I", 12), ("WXN", 19), ("SPAN", 23), ("EE", 25),
     ("EPAN", 57)],
)  # fmt: skip
@pytest.mark.parametrize("el", [1, 2, 3])
def test_positions_of_sctlr(el: int, name: str, position: int) -> None:
    assert REGISTERS[f"SCTLR_EL{el}"][name].low == position


@pytest.mark.parametrize(
    ("name", "high", "low"),
    [
        ("PARange", 3, 0), ("ASIDBits", 7, 4), ("TGran16", 23, 20), ("TGran64", 27, 24),
        ("TGran4", 31, 28), ("TGran16_2", 35, 32), ("TGran64_2", 39, 36), ("TGran4_2", 43, 40),
    ],
)  # fmt: skip
def test_positions_of_mmfr0(name: str, high: int, low: int) -> None:
    field = REGISTERS["ID_AA64MMFR0_EL1"][name]
    assert (field.high, field.low) == (high, low)


def shown(name: str, value: int) -> dict[str, int]:
    return {field.name: v for field, v in REGISTERS[name].decode(value) if v}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (  # Debian's arm64 kernel on a 44-bit CPU
            "TCR_EL1", 0x0000_00F4_B550_3510,
            {"T0SZ": 16, "T1SZ": 16, "TG1": 2, "SH0": 3, "SH1": 3, "ORGN0": 1, "ORGN1": 1,
             "IRGN0": 1, "IRGN1": 1, "IPS": 4, "AS": 1, "A1": 1, "TBI0": 1, "TBI1": 1, "HA": 1},
        ),
        (  # KVM's EL2, 39-bit range
            "TCR_EL2", 0x8084_3519,
            {"T0SZ": 25, "PS": 4, "SH0": 3, "ORGN0": 1, "IRGN0": 1},
        ),
        (  # KVM's stage 2: 40-bit IPA from level 1
            "VTCR_EL2", 0x8002_3558,
            {"T0SZ": 24, "SL0": 1, "PS": 2, "SH0": 3, "ORGN0": 1, "IRGN0": 1},
        ),
        ("TTBR1_EL1", 0x0001_0000_4185_3001, {"ASID": 1, "BADDR": 0x4185_3000 >> 1, "CnP": 1}),
        ("VTTBR_EL2", 0x0003_0000_4400_0000, {"VMID": 3, "BADDR": 0x4400_0000 >> 1}),
        ("MAIR_EL1", 0x0000_0004_0044_00FF, {"Attr0": 0xFF, "Attr2": 0x44, "Attr4": 4}),
    ],
)  # fmt: skip
def test_known_values(name: str, value: int, wanted: dict[str, int]) -> None:
    assert shown(name, value) == wanted
    assert REGISTERS[name].encode(**wanted) == value
    assert register_warnings(REGISTERS[name], value) == []


@given(st.sampled_from(ALL), st.data())
def test_encode_decode_round_trip(register: Register, data: st.DataObject) -> None:
    values = {f.name: data.draw(st.integers(0, ones(f.width))) for f in register.fields}
    word = register.encode(**values)
    assert {field.name: v for field, v in register.decode(word)} == values
    assert register.unnamed(word) == (0, 0)


@given(st.sampled_from(ALL), st.integers(0, ones(64)))
def test_no_bit_is_lost(register: Register, word: int) -> None:
    named = register.encode(**{field.name: v for field, v in register.decode(word)})
    res0, res1 = register.unnamed(word)
    assert (named & ~register.res1) | res0 | (register.res1 & ~res1) == word


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("TCR_EL1", trees.tcr_el1(TG0=3), "TCR_EL1.TG0=0x3 is reserved"),
        ("TCR_EL1", trees.tcr_el1(TG1=0), "TCR_EL1.TG1=0x0 is reserved"),
        ("TCR_EL1", trees.tcr_el1(IPS=7), "TCR_EL1.IPS=0x7 is reserved"),
        ("TCR_EL1", trees.tcr_el1(SH0=1), "TCR_EL1.SH0=0x1 is reserved"),
        ("TCR_EL1", trees.tcr_el1() | 1 << 6, "bits 0x40 are RES0 or not known here, and set"),
        ("TCR_EL1", trees.tcr_el1() | 1 << 35, "bits 0x800000000 are RES0"),
        ("TCR_EL2", 16, "bits 0x80800000 are RES1 and clear"),
        ("VTCR_EL2", 24 | 1 << 6, "bits 0x80000000 are RES1 and clear"),
        ("VTCR_EL2", trees.vtcr_el2(TG0=3), "VTCR_EL2.TG0=0x3 is reserved"),
    ],
)
def test_reserved_values_are_told(name: str, value: int, warning: str) -> None:
    (found,) = register_warnings(REGISTERS[name], value)
    assert found.startswith(warning)


def test_registers_of_running_kernels_hold_no_reserved_value() -> None:
    checked = 0
    for moment in moments():
        settled = "running" in moment.name or "irq_from_user" in moment.name
        if not settled or moment.registers.el != 1:
            continue
        for name in ("TCR_EL1", "TTBR0_EL1", "TTBR1_EL1", "MAIR_EL1", "SCTLR_EL1"):
            value = moment.registers.values[name]
            assert register_warnings(REGISTERS[name], value) == [], (moment.name, name)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("tcr_el1", "TCR_EL1"), ("TCR_EL1", "TCR_EL1"), ("Mair_El2", "MAIR_EL2"),
     ("sctlr", "SCTLR_EL1")],
)  # fmt: skip
def test_lookup(name: str, wanted: str) -> None:
    assert lookup(name).name == wanted


@pytest.mark.parametrize("name", ["", "tcr", "TCR_EL4", "X0"])
def test_lookup_of_an_unknown_name(name: str) -> None:
    with pytest.raises(InvalidError, match=f"register {name!r} is not known; known: TCR_EL1"):
        lookup(name)

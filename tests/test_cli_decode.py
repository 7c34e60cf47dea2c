"""``ttbr decode``: registers and descriptors, text and JSON."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import ttbr
from ttbr.arch.registers import REGISTERS


def test_a_register() -> None:
    result = ttbr("decode", "tcr_el2", "0x80843519")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "TCR_EL2 = 0x0000000080843519  Translation Control Register (EL2), E2H=0"
    assert any(re.fullmatch(r"    5:0  T0SZ +0x19 +39-bit range", line) for line in lines)
    assert any("PS" in line and "44 bits, 16T" in line for line in lines)
    assert lines[-1].startswith("  zero:  MTX DS")


@pytest.mark.parametrize("value", ["0x80843519", "2156147993", "0x8084_3519"])
def test_numbers_as_people_type_them(value: str) -> None:
    assert ttbr("decode", "TCR_EL2", value).out == ttbr("decode", "tcr_el2", "0x80843519").out


def test_e2h_reads_tcr_el2_as_tcr_el1() -> None:
    out = ttbr("decode", "tcr_el2", "0xf4b5503510", "--e2h").out
    assert "T1SZ" in out
    assert "T1SZ" not in ttbr("decode", "tcr_el2", "0xf4b5503510").out


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("tcr_el1", "0xc000", "TCR_EL1.TG0=0x3 is reserved"),
        ("tcr_el2", "0x19", "bits 0x80800000 are RES1 and clear"),
        ("tcr_el1", "0x40b5503510", "bits 0x40 are RES0"),
    ],
)
def test_reserved_values_are_findings(name: str, value: str, warning: str) -> None:
    value = "0x80000040" if "0x40 are" in warning else value
    result = ttbr("decode", name, value)
    assert result.status == 1
    assert f"!! {warning}" in result.out
    body = ttbr("decode", name, value, "--json")
    assert body.status == 1
    assert any(text.startswith(warning) for text in body.json["warnings"])


@pytest.mark.parametrize(
    ("par", "words", "absent"),
    [
        ("0xff00000040080b80", ["Normal WB", "Inner Shareable"], ["FST", "!!"]),
        ("0x80f", ["Translation fault, level 3"], ["Device", "ATTR", "!!"]),
        ("0xb0d", ["Translation fault, level 2"], ["Device", "!!"]),
    ],
)
def test_par(par: str, words: list[str], absent: list[str]) -> None:
    """PAR_EL1 has one layout for success and one for a fault."""
    result = ttbr("decode", "par_el1", par)
    assert result.status == 0
    assert all(word in result.out for word in words), result.out
    assert not any(word in result.out for word in absent), result.out


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(REGISTERS)), st.integers(0, (1 << 64) - 1))
def test_text_and_json_of_any_register(name: str, value: int) -> None:
    text, data = ttbr("decode", name, hex(value)), ttbr("decode", name, hex(value), "--json")
    assert text.status == data.status == int(bool(data.json["warnings"]))
    fields = data.json["fields"]
    word = sum(body["value"] << int(body["bits"].split(":")[-1]) for body in fields.values())
    assert word & ~value == 0
    for field, body in fields.items():
        assert re.search(rf"(^| ){re.escape(field)}( |$)", text.out, re.MULTILINE), field
        if body["value"]:
            assert re.search(rf"^ +{body['bits']}  {re.escape(field)} ", text.out, re.MULTILINE)
    assert text.out.count("!!") == len(data.json["warnings"])


# --- descriptors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "level", "granule", "options", "words", "status"),
    [
        ("0x68000041234713", 3, "4K", [], ["level 3 page", "address 0x41234000", "covers 4K"], 0),
        ("0x40200711", 2, "4K", [], ["level 2 block", "0x40200000", "covers 2M"], 0),
        ("0x800000043135003", 0, "4K", [], ["level 0 table", "next table 0x43135000"], 0),
        ("0x40200711", 3, "4K", [], ["level 3 reserved", "Translation fault"], 1),
        ("0x0", 1, "64K", [], ["level 1 invalid"], 1),
        ("0x1f003", 3, "64K", ["--lpa"], ["0xf000000010000"], 0),
        ("0x40000703", 3, "4K", ["--ds"], ["0xc000040000000"], 0),
        ("0x400000432107ff", 3, "4K", ["--stage", "2"], ["S2AP", "MemAttr"], 0),
        ("0x1", 0, "4K", ["--ds"], ["level 0 block", "covers 512G"], 0),
        ("0x3", -1, "4K", ["--ds"], ["level -1 table"], 0),
    ],
)
def test_descriptors(
    value: str, level: int, granule: str, options: list[str], words: list[str], status: int
) -> None:
    command = ["decode", "desc", value, "--level", level, "--granule", granule, *options]
    result = ttbr(*command)
    assert result.status == status
    assert all(word in result.out for word in words), result.out
    data = ttbr(*command, "--json")
    assert data.status == status
    assert f"level {level} {data.json['type']}" in result.out
    assert (data.json["address"] or "") in result.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tcr_el9", "0"], "register 'tcr_el9' is not known"),
        (["tcr_el1", "frog"], "TCR_EL1 'frog' is not a number"),
        (["tcr_el1", "-1"], "does not fit in 64 bits"),
        (["tcr_el1", "0x10000000000000000"], "does not fit in 64 bits"),
        (["desc", "0x3"], "desc needs --level and --granule"),
        (["desc", "0x3", "--level", "3"], "desc needs --level and --granule"),
        (["desc", "0x3g", "--level", "3", "--granule", "4K"], "descriptor '0x3g'"),
        (["desc", "3", "--level", "3", "--granule", "64K", "--ds"], "--ds"),
        (["desc", "3", "--level", "3", "--granule", "4K", "--lpa"], "--lpa"),
        (["desc", "3", "--level", "-1", "--granule", "4K"], "--level -1"),
        (["desc", "3", "--level", "-1", "--granule", "16K", "--ds"], "--level -1"),
        (["desc", "3", "--level", "0", "--granule", "64K"], "--level 0"),
        (["desc", "3", "--level", "3", "--granule", "4K", "--e2h"], "--e2h"),
        (["tcr_el1", "0x10", "--e2h"], "--e2h"),
        (["tcr_el1", "0x10", "--level", "2"], "--level"),
        (["tcr_el1", "0x10", "--granule", "4K"], "--granule"),
        (["tcr_el1", "0x10", "--stage", "2"], "--stage"),
        (["tcr_el1", "0x10", "--ds"], "--ds"),
        (["tcr_el1", "0x10", "--lpa"], "--lpa"),
    ],
)
def test_refused(words: list[str], text: str) -> None:
    assert text in ttbr("decode", *words).refusal


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(["4K", "16K", "64K"]),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
)
def test_any_descriptor(value: int, granule: str, level: int, stage: int) -> None:
    words = ["decode", "desc", value, "--granule", granule, "--level", level, "--stage", stage]
    result = ttbr(*words)
    assert result.status == int(ttbr(*words, "--json").json["type"] in ("invalid", "reserved"))
    assert result.out.startswith(f"{value:#018x}: level {level} ")


@pytest.mark.parametrize(
    ("register", "value", "finding"),
    [
        ("tcr_el2", "0x80823502", "TCR_EL2.T0SZ=2 is out of range: 16 to 48 with the 4K granule"),
        ("tcr_el2", "0x80823531", "TCR_EL2.T0SZ=49 is out of range"),
        ("tcr_el2", "0x8082350e", "TCR_EL2.T0SZ=14 is out of range"),
        ("tcr_el2", "0x18082350e", ""),  # DS=1
        ("tcr_el2", "0x8082750e", ""),  # 64K: FEAT_LVA
        ("tcr_el1", "0x480023519", "TCR_EL1.T1SZ=2 is out of range"),
        ("tcr_el1", "0x480823519", ""),  # EPD1=1
        ("vtcr_el2", "0x80023541", "VTCR_EL2.T0SZ=1 is out of range"),
    ],
)
def test_an_input_size_that_is_never_legal(register: str, value: str, finding: str) -> None:
    result = ttbr("decode", register, value)
    assert result.status == (1 if finding else 0), result.out
    assert f"!! {finding}" in result.out if finding else "!!" not in result.out
    assert bool(ttbr("decode", register, value, "--json").json["warnings"]) is bool(finding)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (0x8002_3519, "2"),
        (0x8002_3559, "1"),
        (0x8002_3599, "0"),
        (0x8002_35D9, "3"),
        (0x8002_7519, "3"),  # 64K
        (0x8002_75D9, "reserved"),
        (0x3_8002_350C, "-1"),  # DS=1, SL2=1
    ],
)
def test_sl0_says_the_start_level(value: int, level: str) -> None:
    result = ttbr("decode", "vtcr_el2", hex(value))
    (line,) = [line for line in result.out.splitlines() if " SL0 " in line]
    assert line.endswith(f"start level: {level}")

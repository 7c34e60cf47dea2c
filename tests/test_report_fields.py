"""Registers and descriptors as text and as plain values."""

import json

import pytest

from trees import tcr_el1
from ttbr.arch.descriptors import OA_48, OA_LPA2, decode
from ttbr.arch.geometry import GRANULES
from ttbr.arch.registers import REGISTERS
from ttbr.report.fields import (
    descriptor_text,
    plain_descriptor,
    plain_register,
    register_text,
    register_warnings,
)


def test_register() -> None:
    lines = register_text(REGISTERS["MAIR_EL1"], 0xFF44_0C08_0400).splitlines()
    assert lines[0] == "MAIR_EL1 = 0x0000ff440c080400  Memory Attribute Indirection Register (EL1)"
    assert [line.split(None, 3)[1:] for line in lines[1:]] == [
        ["Attr7", "0x0", "Device-nGnRnE"],
        ["Attr6", "0x0", "Device-nGnRnE"],
        ["Attr5", "0xff", "Normal WB"],
        ["Attr4", "0x44", "Normal NC"],
        ["Attr3", "0xc", "Device-GRE"],
        ["Attr2", "0x8", "Device-nGRE"],
        ["Attr1", "0x4", "Device-nGnRE"],
        ["Attr0", "0x0", "Device-nGnRnE"],
    ]


@pytest.mark.parametrize(
    ("tsz", "text"), [(16, "48-bit range"), (25, "39-bit range"), (12, "52-bit range")]
)
def test_input_size_in_words(tsz: int, text: str) -> None:
    lines = register_text(REGISTERS["TCR_EL1"], tcr_el1(T1SZ=tsz, DS=1)).splitlines()
    (line,) = [line for line in lines if " T1SZ " in line]
    assert line.endswith(text)


def test_fields_of_features_are_marked_when_set() -> None:
    text = register_text(REGISTERS["TCR_EL1"], tcr_el1(E0PD1=1, DS=1))
    assert "EL0 access to the upper range faults: on  (FEAT_E0PD)" in text
    assert "52-bit descriptors: on  (FEAT_LPA2)" in text
    assert "FEAT_MTE2" not in text


@pytest.mark.parametrize("name", REGISTERS)
def test_plain_values_are_json(name: str) -> None:
    body = json.loads(json.dumps(plain_register(REGISTERS[name], (1 << 64) - 1)))
    assert body["register"] == REGISTERS[name].name
    assert body["value"] == "0xffffffffffffffff"
    assert body["warnings"] == register_warnings(REGISTERS[name], (1 << 64) - 1)
    assert set(body["fields"]) == {field.name for field in REGISTERS[name].fields}


def test_descriptor() -> None:
    value = 0x0060_0000_4000_0705
    g = GRANULES["4K"]
    text = descriptor_text(value, decode(value, 2, g, OA_48), 2, g)
    assert text.splitlines()[0] == (
        "0x0060000040000705: level 2 block, 4K granule, output address 0x40000000 (entry covers 2M)"
    )
    assert "execute-never" in text
    body = json.loads(json.dumps(plain_descriptor(value, decode(value, 2, g, OA_48))))
    assert (body["type"], body["address"]) == ("block", "0x40000000")
    assert body["fields"]["UXN"] == {"bits": "54", "value": 1}
    assert body["fields"]["AttrIndx"] == {"bits": "4:2", "value": 1}


@pytest.mark.parametrize(("value", "kind"), [(0, "invalid"), (1, "reserved")])
def test_what_maps_nothing_has_no_address(value: int, kind: str) -> None:
    g = GRANULES["4K"]
    decoded = decode(value, 3, g, OA_LPA2)
    assert f"level 3 {kind}" in descriptor_text(value, decoded, 3, g)
    assert "address" not in descriptor_text(value, decoded, 3, g)
    assert plain_descriptor(value, decoded)["address"] is None

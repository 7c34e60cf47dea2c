"""Fields and registers: cutting words and putting them together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.arch.bits import Field, Register, bits, ones
from ttbr.errors import InvalidError

WORDS = st.integers(0, (1 << 64) - 1)


@st.composite
def fields(draw: st.DrawFn) -> Field:
    low = draw(st.integers(0, 63))
    return Field("F", draw(st.integers(low, 63)), low)


def test_bits_take_both_ends() -> None:
    assert bits(0xABCD, 15, 12) == 0xA
    assert bits(0xABCD, 3, 0) == 0xD
    assert bits(1 << 63, 63, 63) == 1
    assert [ones(n) for n in (0, 1, 6, 64)] == [0, 1, 0x3F, (1 << 64) - 1]


@given(fields(), WORDS)
def test_get_is_what_a_string_of_bits_shows(field: Field, word: int) -> None:
    text = f"{word:064b}"
    assert field.get(word) == int(text[63 - field.high : 64 - field.low], 2)
    assert field.get(word) == bits(word, field.high, field.low)


@given(fields(), WORDS, WORDS)
def test_put_changes_the_field_and_nothing_else(field: Field, word: int, value: int) -> None:
    value &= ones(field.width)
    changed = field.put(word, value)
    assert field.get(changed) == value
    assert changed & ~field.mask == word & ~field.mask
    assert field.put(changed, field.get(word)) == word


@given(fields(), st.integers(0, 1 << 66))
def test_put_refuses_what_does_not_fit(field: Field, excess: int) -> None:
    with pytest.raises(InvalidError, match=rf"^F: {1 << field.width | excess:#x} does not fit"):
        field.put(0, 1 << field.width | excess)
    with pytest.raises(InvalidError, match="F: -0x1 does not fit"):
        field.put(0, -1)


def test_position_and_mask() -> None:
    assert (Field("A", 7, 7).position, Field("A", 9, 8).position) == ("7", "9:8")
    assert Field("A", 9, 8).mask == 0x300
    assert Field("A", 63, 0).mask == (1 << 64) - 1


def test_describe_tells_reserved_from_unsaid() -> None:
    known = {0: "off"}
    assert Field("A", 0, 0, values=known).describe(0) == "off"
    assert Field("A", 0, 0, values=known).describe(1) == ""
    assert Field("A", 0, 0, values=known, reserved=True).describe(1) == "reserved"
    assert Field("A", 0, 0).describe(1) == ""


REGISTER = Register("R_EL1", "a register", (Field("HIGH", 31, 28), Field("LOW", 3, 0)), 1 << 8, 32)


def test_register_names_its_fields() -> None:
    assert REGISTER["LOW"].high == 3
    assert REGISTER.named == 0xF000000F
    with pytest.raises(InvalidError, match="R_EL1 has no field MIDDLE"):
        REGISTER["MIDDLE"]


def test_register_encodes_res1_and_decodes_in_order() -> None:
    value = REGISTER.encode(LOW=3, HIGH=9)
    assert value == 0x9000_0103
    assert [(field.name, v) for field, v in REGISTER.decode(value)] == [("HIGH", 9), ("LOW", 3)]
    with pytest.raises(InvalidError, match="LOW: 0x10 does not fit in bits 3:0"):
        REGISTER.encode(LOW=16)
    with pytest.raises(InvalidError, match="R_EL1 has no field X"):
        REGISTER.encode(X=1)


@pytest.mark.parametrize("value", [1 << 32, -1])
def test_register_refuses_a_value_that_is_too_wide(value: int) -> None:
    with pytest.raises(InvalidError, match="does not fit in 32 bits"):
        REGISTER.decode(value)


def test_unnamed_bits() -> None:
    assert REGISTER.unnamed(0x9000_0103) == (0, 0)
    assert REGISTER.unnamed(0x0000_0013) == (0x10, 0x100)

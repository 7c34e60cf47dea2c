"""Register files: JSON, TOML, captures, and what is wrong with one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbr.errors import UnreadableError
from ttbr.memory.registerfile import parse_registers, read_registers


@pytest.mark.parametrize(
    "text",
    [
        '{"TTBR0_EL1": "0x1000", "tcr_el1": 25, "SCTLR": "0b1"}',
        'TTBR0_EL1 = 0x1000\ntcr_el1 = 25\nSCTLR = "1"\n',
        '[sysregs]\nTTBR0_EL1 = "0x1000"\nTCR_EL1 = 0o31\nSCTLR_EL1 = 1\n',
        '{"sysregs": {"TTBR0_EL1": "4096", "TCR_EL1": "0x19", "SCTLR": 1}, "note": ["x"]}',
        '\n  {"TTBR0_EL1": 4096, "TCR_EL1": 25, "SCTLR_EL1": 1}\n',
    ],
)
def test_all_forms_say_the_same(text: str) -> None:
    found = parse_registers(text, "f")
    assert found.values == {"TTBR0_EL1": 0x1000, "TCR_EL1": 25, "SCTLR_EL1": 1}
    assert found.pstate is None
    assert (found.el, found.pan) == (None, False)


@pytest.mark.parametrize("el", range(4))
def test_exception_level_of_a_capture(el: int) -> None:
    body = {"sysregs": {"TCR_EL1": "0x19"}, "el": el}
    assert parse_registers(json.dumps(body), "f").el == el
    body |= {"core": {"cpsr": hex(el << 2 | 1 << 22)}}
    found = parse_registers(json.dumps(body), "f")
    assert (found.el, found.pan) == (el, True)


@pytest.mark.parametrize("el", [4, -1, 13])
def test_impossible_exception_level(el: int) -> None:
    with pytest.raises(UnreadableError, match="f: el"):
        parse_registers(json.dumps({"sysregs": {}, "el": el}), "f")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"TTBR0_EL1": "frog"}', "TTBR0_EL1='frog' is not a number"),
        ('{"TTBR0_EL1": true}', "TTBR0_EL1=True is not a number"),
        ('{"TTBR0_EL1": 1.5}', "TTBR0_EL1=1.5 is not a number"),
        ('{"TTBR0_EL1": null}', "TTBR0_EL1=None is not a number"),
        ('{"TTBR0_EL1": ""}', "TTBR0_EL1='' is not a number"),
        ('{"TTBR0_EL1": "0x1000g"}', "is not a number"),
        ('{"TTBR0_EL1": "ffff0000"}', "is not a number"),
        ('{"TTBR0_EL1": -1}', "TTBR0_EL1=-0x1 does not fit in 64 bits"),
        ('{"TTBR0_EL1": "0x10000000000000000"}', "does not fit in 64 bits"),
        ('{"TTBR0_EL1": {"value": 1}}', "TTBR0_EL1 is not a register value"),
        ('{"sysregs": {"TTBR0_EL1": [1]}}', "TTBR0_EL1=[1] is not a number"),
        ('{"sysregs": [1]}', "sysregs must be a table"),
        ('{"TTBR0_EL1": 1', "neither JSON nor TOML"),
        ("[1, 2]", "neither JSON nor TOML"),
        ("hello world", "neither JSON nor TOML"),
        ("TTBR0_EL1 = 2020-01-01", "is not a number"),
        ("TTBR0_EL1 = inf", "is not a number"),
        ("TTBR0_EL1 = 1\nTTBR0_EL1 = 2", "neither JSON nor TOML"),
        ("{" * 100_000, "neither JSON nor TOML"),
        ('{"a":' * 100_000, "neither JSON nor TOML"),
        ("a = " + "[" * 100_000, "neither JSON nor TOML"),
        ('{"A": ' + "9" * 5000 + "}", "f: "),
        ("A = " + "9" * 5000, "f: "),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_wrong_is_named(text: str, wanted: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        parse_registers(text, "f")
    message = str(caught.value)
    assert message.startswith("f: ")
    assert wanted in message
    assert "\n" not in message
    assert len(message) < 300


def test_the_same_register_twice_in_two_spellings() -> None:
    """Two values for one register are a contradiction, not a choice."""
    with pytest.raises(UnreadableError, match="TTBR0_EL1"):
        parse_registers('{"TTBR0_EL1": 1, "ttbr0_el1": 2}', "f")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "regs.json"
    path.write_text('{"TCR_EL1": 25}')
    assert read_registers(path).values == {"TCR_EL1": 25}
    for data, text in ((b"", "empty"), (b" \n", "empty"), (b"\xff\xfe\x00", "not a text file")):
        path.write_bytes(data)
        with pytest.raises(UnreadableError, match=f"regs.json: .*{text}"):
            read_registers(path)
    with pytest.raises(UnreadableError, match="No such file"):
        read_registers(tmp_path / "none")
    with pytest.raises(UnreadableError, match="directory"):
        read_registers(tmp_path)
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(UnreadableError, match=r"regs\.json: too large"):
        read_registers(path)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    for start in ("", "{", "a = ", '{"sysregs": '):
        try:
            found = parse_registers(start + text, "f")
        except UnreadableError as error:
            assert str(error).startswith("f: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(0 <= value < 1 << 64 for value in found.values.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sysregs", "core", "el", "TCR_EL1", "cpsr"]), JSON))
def test_any_json(tree: dict[str, object]) -> None:
    try:
        parse_registers(json.dumps(tree), "f")
    except UnreadableError as error:
        assert str(error).startswith("f: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
